"""Parameters and results that several methods share, so that one name means one thing."""

from nmerge_core.merging.recipe.prepared import Result
from nmerge_core.parameters.inputs import Classification, Corpus, Statistics, Tasks
from nmerge_core.parameters.settings import LIMIT as EVALUATED
from nmerge_core.parameters.settings import RUN_CODE as RUN_GENERATED
from nmerge_core.parameters.values import Choice, Flag, Number, Solved, Text

WEIGHT = Number(
    name="weight",
    default=1.0,
    help="How much of this model's change is taken; 1 takes all of it.",
    low=-2,
    high=3,
    step=0.05,
    per_model=True,
    varies=True,
    open_start=True,
    open_end=True,
)
LAMBDA = Number(
    name="lambda",
    default=1.0,
    help="Scale λ of the merged change; 1 leaves it as it is.",
    low=0,
    high=5,
    step=0.05,
    varies=True,
    open_end=True,
)
DENSITY = Number(
    name="density",
    default=1.0,
    help="Fraction of each model's changed weights that is kept, in (0, 1].",
    low=0,
    high=1,
    step=0.01,
    per_model=True,
    above_low=True,
    varies=True,
)
POSITION = Number(
    name="t",
    default=0.5,
    help="How far to go from one to the other.",
    low=0,
    high=1,
    step=0.05,
    varies=True,
)
OMEGA = Number(
    name="omega",
    default=0.4,
    help="Share ω of the change that is kept where the base's own knowledge is.",
    low=0,
    high=1,
    step=0.05,
)
NORMALIZE = Flag(name="normalize", help="Divide by the sum of the weights, so that scales stay those of one model.")
RESCALE = Flag(
    name="rescale",
    default=True,
    help="Divide what is kept by the density, so that the expected change stays the same.",
)
TRIM = Choice(
    name="trim",
    default="auto",
    help="Keep the largest changes of the whole model (the authors' rule) or of each tensor (mergekit's). "
    "auto is model, but tensor where the density varies over the layers: there is no one threshold then.",
    choices=("auto", "model", "tensor"),
)
MASK_RATIO = Number(
    name="mask_ratio",
    default=0.15,
    help="Fraction r of each model's largest changes that is kept, over the whole model (paper: 0.05 to 0.2).",
    low=0,
    high=1,
    step=0.01,
    above_low=True,
)
LAMBDA_1 = Number(
    name="lambda_1",
    default=0.0,
    help="Scale λ1 of the change parallel to a neuron's base weights.",
    low=0,
    high=10,
    step=0.1,
)
LAMBDA_2 = Number(
    name="lambda_2",
    default="auto",
    help="Scale λ2 of the change across a neuron's base weights; auto is 1 / (1 − σ), σ the share masked out.",
    low=0,
    high=10,
    step=0.1,
    auto=True,
    open_end=True,
)
MERGE_FUNCTION = Choice(
    name="merge_function",
    default="elect_mean",
    help="How the models' coordinates along one direction become one (Table 5): agree on a sign first or not, mean or "
    "sum.",
    choices=("elect_mean", "elect_sum", "mean", "sum"),
)
CATEGORY = Text(
    name="category",
    help="The corpus category this model was fine-tuned for; the model's own name if left out.",
    per_model=True,
)
CALIBRATION = Corpus(
    name="calibration",
    help="Corpus folder with one <category>.jsonl per category; its texts measure the coefficients.",
)
SAMPLES = Number(
    name="samples",
    default=30,
    help="Texts per task that the coefficients are solved on (paper: 30).",
    low=1,
    high=1000,
    step=1,
    whole=True,
    unit="texts",
)
TASKS = Tasks(
    name="tasks",
    help="Tasks that candidates are scored on, as `evaluate` takes them: their mean primary metric is made large.",
)
LIMIT = EVALUATED.with_(default=100, help="Only the first so many problems of each task.")
RUN_CODE = RUN_GENERATED.with_(help="Let tasks run the code that a candidate writes, in the sandbox.")
EVALUATIONS = Number(
    name="evaluations",
    default=40,
    help="Candidates that are merged and measured, the start among them; each reads every model once.",
    low=2,
    high=200,
    step=1,
    whole=True,
    open_end=True,
    unit="candidates",
)
STATISTICS = Statistics(
    name="statistics",
    help="Folder of this model's statistics (command `statistics`); collected on the corpus if left out.",
    per_model=True,
)
CORPUS = Corpus(
    name="corpus", help="Corpus whose texts of a model's category its statistics are collected on, if need be."
)
TEXTS = SAMPLES.with_(
    default=256, help="Texts per model that its statistics are collected on, if need be.", open_end=True
)
MEASURED = (STATISTICS, CORPUS, CATEGORY, TEXTS)  # of a method that merges by statistics
SHARE = WEIGHT.with_(help="How much this model counts beside what its statistics say.", low=0.0, open_start=False)
COEFFICIENTS = Solved(
    name="coefficients",
    help="Coefficients that were found before, per part of the model; given, nothing is searched or solved.",
)
NEURONS = Classification(name="neurons", help="Classification folder of the base model; its categories are the groups.")

SCALES = Result("scales", "Taken of each model", "models", "The coefficient of each model's whole change")
LAYER_COEFFICIENTS = Result(
    "coefficients", "How much of each model it takes", "layers", "By layer, and by part of the layer"
)
MEASURED_TEXTS = Result("statistics", "What the models were measured on", "table")
