"""The parameters of runs, each described once for the command line, Python, the pages and the keys of runs."""

from nmerge_core.cache import own_tasks
from nmerge_core.number_format import AUTO, RUN_DTYPES
from nmerge_core.parameters.inputs import Classification, Corpus, Model, Models, NeuronLists, Task, Tasks
from nmerge_core.parameters.values import Choice, Extra, Flag, Manner, Names, Number, Numbers, Permission, Text

MODEL = Model(name="model", required=True, help="A model folder or Hub id, or MODEL+ADAPTER with a LoRA.")
BASE = MODEL.with_(name="base", help="The base model.")
MODELS = Models(name="models", required=True, help="Models, in their order.")
FINE_TUNES = MODELS.with_(help="Fine-tunes of the base.")
CORPUS = Corpus(
    name="corpus",
    required=True,
    help="A folder with one <category>.jsonl per category, or a YAML of datasets sources; CORPUS[:-60] leaves the last "
    "60 lines of each category out.",
)
TASK = Task(
    name="task",
    required=True,
    help="A task YAML, a task of the demo family (math, code, translation, general), an lm-eval name, or NAME=FILE "
    f"with the problems of a file, of {', '.join(own_tasks())}.",
)
TASKS = Tasks(
    name="tasks", required=True, help=f"Tasks, separated by commas: each {TASK.help[0].lower()}{TASK.help[1:]}"
)
CLASSIFICATION = Classification(name="neurons", help="What classify wrote for the model or its base.")
DEVICE = Text(name="device", default="auto", help="auto, cpu, cuda, cuda:1, …")
RUN_DTYPE = Choice(
    name="run_dtype",
    default=AUTO,
    choices=RUN_DTYPES,
    help="Number format the model runs in; auto is its own, on a CPU that computes in it slowly float32.",
)
CATEGORIES = Names(name="categories", help="Categories of the corpus to use besides general; all by default.")
TOP_K = Number(
    name="top_k", default=10, low=1, high=50, step=1, whole=True, help="Exemplars that vote on a neuron (k)."
)
MARGIN = Number(
    name="margin",
    default=1,
    low=0,
    high=50,
    step=1,
    whole=True,
    unit="votes",
    help="Votes a category must be ahead by, else the neuron is General (m).",
)
GROUPING = Choice(
    name="grouping",
    default="functional",
    help="Group neurons by what they do, or at random with the same sizes per layer (the control of Table 4).",
    choices=("functional", "random"),
)
LISTS = NeuronLists(
    name="lists", help="Neurons that are groups of their own beside the categories, by name; each neuron in one list."
)
GROUPS = Names(name="groups", help="Categories and lists whose neurons get coefficients of their own; none by default.")
TOGETHER = Flag(
    name="together",
    help="Solve the coefficients of all groups of neurons at once, so that a task counts more where its change is "
    "found (ours); each by itself otherwise, as in the paper. Only groups inside NeuronMerge have some.",
)
MAX_LENGTH = Number(
    name="max_length", default=512, low=1, step=1, whole=True, unit="tokens", help="Tokens of a text that are read."
)
COLLECT_BATCH = Number(
    name="batch_size", default="auto", low=1, step=1, whole=True, auto=True, unit="exemplars", help="Exemplars a batch."
)
SKIP_FIRST = Flag(name="skip_first", help="Leave out the first token, an attention sink in many models.")
STATISTICS = Extra(
    name="statistics",
    help="Also what each neuron is like over all tokens: extrema, moments, signs of gate and up, a histogram.",
)
LAYERWISE = Manner(
    name="layerwise",
    help="Hold the weights of one layer at a time, for a model larger than the memory; so it is done by itself where "
    "the whole model has no room.",
)
SAMPLES = Number(
    name="samples",
    default=30,
    low=1,
    step=1,
    whole=True,
    unit="texts",
    help="Texts drawn of each category (paper: 30).",
)
RANDOM_GROUPS = Number(
    name="draws",
    default=20,
    low=2,
    step=1,
    whole=True,
    help="Random groupings of each layer's neurons that stand beside neuron groups, where those are known.",
)
STATISTICS_SAMPLES = SAMPLES.with_(default=256, help="Texts drawn of each category, or as many as it has.")
STATISTICS_KIND = Choice(
    name="kind",
    required=True,
    choices=("fisher", "gram", "magnitude"),
    help="Fisher information, for the method fisher; of what linear layers read, Gram matrices, for regmean, or mean "
    "magnitudes, for the step aim.",
)
SEED = Number(name="seed", default=0, low=0, step=1, whole=True, help="Decides every draw.")
CATEGORY = Text(name="category", required=True, help="The category, or the name of a list, whose neurons are silenced.")
LAYERS = Numbers(
    name="layers", low=0, whole=True, help="Layers, from 0, such as 1,3-5 or 0-27/3 (every third); all by default."
)
PROPORTIONS = Numbers(
    name="proportions",
    default=(0.2, 0.4, 0.6, 0.8, 1.0),
    low=0,
    high=1,
    above_low=True,
    help="Shares of the category's neurons; 20 % is 0.2.",
)
KEEP_ONLY = Flag(
    name="keep_only", help="Switch off all neurons of these layers but the category's, or as many random ones."
)
REPEATS = Number(name="repeats", default=3, low=1, step=1, whole=True, help="Draws of each share, averaged.")
LIMIT = Number(
    name="limit", low=1, step=10, whole=True, unit="problems", help="Only the first so many problems of a task; or all."
)
LIMIT_EACH = LIMIT.with_(help="Only the first so many problems of a task, or texts of each category; or all.")
LOSS = CORPUS.with_(
    name="loss",
    required=False,
    help="In place of a task: a corpus, on whose held-out texts the loss is taken, of each category.",
)
RUN_CODE = Flag(name="run_code", help="Let tasks run the code that a model writes, in a locked-down process.")
ALLOW_TASK_CODE = Permission(
    name="allow_task_code",
    help="Let task YAMLs run code of their own, outside of any sandbox: read it first.",
)
SHOTS = Number(
    name="shots",
    low=0,
    high=64,
    step=1,
    whole=True,
    open_end=True,
    unit="examples",
    help="Solved examples before each problem; as many as the task says by default.",
)
CHAT_TEMPLATE = Flag(
    name="chat_template",
    help="Ask each problem as a turn of the model's chat template, the examples as turns before it.",
)
ALIKE, OWN = "alike", "own"
DECODING = Choice(
    name="decoding",
    default=ALIKE,
    choices=(ALIKE, OWN),
    help="How answers are decoded: alike, greedily unless the task draws and without a checkpoint's penalties; or by "
    "each checkpoint's own generation_config.json, as lm-eval does.",
)
TRANSFORMERS, VLLM = "transformers", "vllm"
BACKEND = Choice(
    name="backend",
    default=TRANSFORMERS,
    choices=(TRANSFORMERS, VLLM),
    help="What runs the models: transformers; or, where it is installed, vLLM on an accelerator, as lm-eval has it.",
)
EVALUATE_SEED = SEED.with_(default=1234, help="Decides which examples stand before problems, and what a task draws.")
EVALUATE_BATCH = Number(
    name="batch_size",
    default="auto",
    low=1,
    step=1,
    whole=True,
    auto=True,
    unit="texts",
    help="Texts a batch; halved when they do not fit in memory. auto begins with many.",
)
NEURONS_LABELLED = Number(
    name="count",
    default=100,
    low=1,
    step=10,
    whole=True,
    unit="neurons",
    help="Neurons that are drawn, all where there are no more (paper: 100).",
)
EACH_CATEGORY = Flag(name="each_category", help="Draw as many neurons of each category, and not at random of all.")
ANSWER_TOKENS = Number(
    name="answer_tokens",
    default=512,
    low=16,
    step=1,
    whole=True,
    unit="tokens",
    help="The longest answer; more for a model that thinks before it answers.",
)
RANK = Number(name="rank", required=True, low=1, step=1, whole=True, help="The rank of each linear layer's change.")
