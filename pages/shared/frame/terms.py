"""Terms of the field, each said once: the hints that stand where pages use them."""

NATS = "Nats are natural logarithms: 1 nat is a factor e ≈ 2.7 in how likely a text is found, 0.1 nats are 10 %."
DIVERGENCE = (
    "The Kullback-Leibler divergence (KL): how much likelier than the other model a model finds what it would say "
    f"itself, on average over all next tokens. 0: both expect the same. {NATS}"
)
KAPPA = (
    "How far two agree beyond what categories that have nothing to do with each other would: 1 in full, 0 not at all."
)
BALANCED = (
    "The mean of two shares told rightly, of texts that excite a neuron and of texts that do not; 50 % is chance."
)
VOTES = "How many of its strongest texts, each of which votes for its own category, are of the category with the most."
HOLM = "Adjusted for as many comparisons as there are rows (Holm): below 0.05 it is more than chance."
DEMO_KNOWS = (
    "The demo's models learnt short stories, facts and letters (general), word problems (math), small Python functions "
    "and English and Spanish sentences, and nothing else: other prompts they continue with nonsense."
)
