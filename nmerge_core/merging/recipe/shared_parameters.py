"""Parameters that several methods share, so that one name means one thing."""

from dataclasses import replace

from nmerge_core.merging.recipe.registry import Parameter

WEIGHT = Parameter(
    "weight",
    "float",
    1.0,
    "How much of this model's change is taken; 1 takes all of it.",
    -2,
    3,
    0.05,
    per_model=True,
    varies=True,
)
LAMBDA = Parameter(
    "lambda",
    "float",
    1.0,
    "Scale λ of the merged change; 1 leaves it as it is.",
    0,
    5,
    0.05,
    varies=True,
    open_end=True,
)
DENSITY = Parameter(
    "density",
    "float",
    1.0,
    "Fraction of each model's changed weights that is kept, in (0, 1].",
    0,
    1,
    0.01,
    per_model=True,
    above_low=True,
    varies=True,
)
NORMALIZE = Parameter(
    "normalize", "flag", False, "Divide by the sum of the weights, so that scales stay those of one model."
)
RESCALE = Parameter(
    "rescale", "flag", True, "Divide what is kept by the density, so that the expected change stays the same."
)
TRIM = Parameter(
    "trim",
    "choice",
    "auto",
    "Keep the largest changes of the whole model (the authors' rule) or of each tensor (mergekit's). "
    "auto is model, but tensor where the density varies over the layers: there is no one threshold then.",
    choices=("auto", "model", "tensor"),
)
MASK_RATIO = Parameter(
    "mask_ratio",
    "float",
    0.15,
    "Fraction r of each model's largest changes that is kept, over the whole model (paper: 0.05 to 0.2).",
    0,
    1,
    0.01,
    above_low=True,
)
LAMBDA_1 = Parameter(
    "lambda_1", "float", 0.0, "Scale λ1 of the change parallel to a neuron's base weights.", 0, 10, 0.1
)
LAMBDA_2 = Parameter(
    "lambda_2",
    "float",
    "auto",
    "Scale λ2 of the change across a neuron's base weights; auto is 1 / (1 − σ), σ the share masked out.",
    0,
    10,
    0.1,
    auto=True,
    open_end=True,
)
MERGE_FUNCTION = Parameter(
    "merge_function",
    "choice",
    "elect_mean",
    "How the models' coordinates along one direction become one (Table 5): agree on a sign first or not, mean or sum.",
    choices=("elect_mean", "elect_sum", "mean", "sum"),
)
CATEGORY = Parameter(
    "category",
    "text",
    None,
    "The corpus category this model was fine-tuned for; the model's own name if left out.",
    per_model=True,
)
CALIBRATION = Parameter(
    "calibration",
    "path",
    None,
    "Corpus folder with one <category>.jsonl per category; its texts measure the coefficients.",
)
SAMPLES = Parameter("samples", "int", 30, "Texts per task that the coefficients are solved on (paper: 30).", 1, 1000, 1)
TASKS = Parameter(
    "tasks",
    "names",
    None,
    "Tasks the search scores its candidates on, as `evaluate` takes them; their mean primary metric is made large.",
)
LIMIT = Parameter("limit", "int", 100, "Only the first so many problems of each task.", 1, None, 10)
RUN_CODE = Parameter("run_code", "flag", False, "Let tasks run the code that a candidate writes, in the sandbox.")
EVALUATIONS = Parameter(
    "evaluations",
    "int",
    40,
    "Candidates that are merged and measured, the start among them; each reads every model once.",
    2,
    200,
    1,
    open_end=True,
)
STATISTICS = Parameter(
    "statistics",
    "path",
    None,
    "Folder of this model's statistics (command `statistics`); collected on the corpus if left out.",
    per_model=True,
)
CORPUS = Parameter(
    "corpus", "path", None, "Corpus whose texts of a model's category its statistics are collected on, if need be."
)
TEXTS = replace(
    SAMPLES, default=256, help="Texts per model that its statistics are collected on, if need be.", open_end=True
)
MEASURED = (STATISTICS, CORPUS, CATEGORY, TEXTS)  # of a method that merges by statistics
SHARE = replace(WEIGHT, help="How much this model counts beside what its statistics say.", low=0.0)
COEFFICIENTS = Parameter(
    "coefficients",
    "json",
    None,
    "Coefficients that were found before, per part of the model; given, nothing is searched or solved.",
    advanced=True,
)


def with_default(parameter: Parameter, default: object) -> Parameter:
    """Return the same parameter with another default."""
    return replace(parameter, default=default)
