"""How soon the Explorer shows a neuron of a model of 7 billion parameters and of three fine-tunes, in a browser.

    python -m benchmarks.explorer            # Chromium and the app on this machine; 3 GB of disk, some minutes

The stores are those of Qwen2.5-7B's shape, 28 layers of 18,944 neurons and 1,200 texts, of random numbers; the weights
are empty files, so that no model runs and no token is shaded: this is what the store alone gives. Milliseconds by the
browser's own clock from the key that asks for a neuron to its texts in the page, or from the click that turns, sorts or
filters the table of all half a million neurons to its new rows; medians. A first neuron is one of a layer that was not
shown before.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright
from safetensors.numpy import save_file

from benchmarks.page import watch
from nmerge_core.activations import write
from nmerge_core.classification.categories import categorise
from nmerge_core.family import Family, Member, save_family
from nmerge_core.files.folders import write_meta
from nmerge_core.runs.folder import Status, create
from nmerge_core.runs.request import resolve
from tests.browser.driver import ARGUMENTS, App, chromium, keyed, serve, settle, visit

LAYERS, D_FFN, D_MODEL, TEXTS, STORED = 28, 18_944, 3_584, 1_200, 50
SHOWN = (13, 14, 15, 16)  # layers whose scores are written; the others' are holes in the file
NAMES = ("base", "math", "code", "translation")
CATEGORIES = ("general", "math", "code", "translation")
TABLE = "() => document.querySelector('[class*=st-key-explorer_table] canvas')?.textContent"
WANTED = {
    "first neuron": 300,
    "next neuron": 400,
    "table, page": 1000,
    "table, sort": 1000,
    "table, filter": 1000,
}  # ms


def write_model(folder: Path) -> str:
    """Write a checkpoint of the shape of Qwen2.5-7B whose weights are a hole."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": D_MODEL,
        "intermediate_size": D_FFN, "num_hidden_layers": LAYERS, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152_064, "tie_word_embeddings": False, "_name_or_path": folder.name,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [152_064, D_MODEL], "lm_head.weight": [152_064, D_MODEL]}
    shapes["model.norm.weight"] = [D_MODEL]
    for layer in range(LAYERS):
        for name in ("gate", "up", "down"):
            shape = [D_MODEL, D_FFN] if name == "down" else [D_FFN, D_MODEL]
            shapes[f"model.layers.{layer}.mlp.{name}_proj.weight"] = shape
        for name, width in (("q", D_MODEL), ("k", 512), ("v", 512), ("o", D_MODEL)):
            shapes[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = [width, D_MODEL]
            if name != "o":
                shapes[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = [width]
        for name in ("input", "post_attention"):
            shapes[f"model.layers.{layer}.{name}_layernorm.weight"] = [D_MODEL]
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return str(folder)


def write_corpus(folder: Path) -> str:
    """Write a corpus of 300 texts of each category."""
    folder.mkdir()
    random = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(500)])
    for category in CATEGORIES:
        lines = [json.dumps({"text": f"{category} {n} " + " ".join(random.choice(words, 80))}) for n in range(300)]
        (folder / f"{category}.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def write_store(root: Path, model: str, corpus: str, seed: int) -> None:
    """Leave a finished classification of random scores in a cache, as a worker would."""
    from nmerge_core.corpus.corpus import load_corpus

    loaded = load_corpus(corpus)
    request = resolve(root, "classify", {"model": model, "corpus": corpus})
    run = create(root, "classify", request.key, f"Classify {Path(model).name}", request.parameters, request.inputs, "")
    run.part.mkdir()
    random = np.random.default_rng(seed)
    shared = np.random.default_rng(0)  # most of what excites a neuron is the same in every model
    shape = (LAYERS, D_FFN, STORED)
    ids = shared.integers(0, TEXTS, shape, dtype=np.int32)
    changed = random.random(shape[:2]) < 0.2
    ids[changed] = random.integers(0, TEXTS, (int(changed.sum()), STORED), dtype=np.int32)
    values = -np.sort(-random.gamma(2.0, 1.0, shape).astype(np.float32), axis=2)
    positions = random.integers(0, 80, shape, dtype=np.int32)
    save_file({"ids": ids, "values": values, "positions": positions}, run.part / "top.safetensors")
    write_scores(run.part / "scores.safetensors", random)
    write.write_exemplars(run.part, loaded)
    labels, tables = loaded.labels, []
    for layer in range(LAYERS):
        category, counts = categorise(ids[layer], labels, len(CATEGORIES), 10, 1)
        hangs = np.zeros(D_FFN, bool)
        best = ids[layer, :, :10], values[layer, :, :10]
        tables.append(write.neuron_table(layer, loaded.categories, category, counts, hangs, *best))
    write.write_neurons(run.part, tables, loaded.categories)
    meta = {
        "model": model, "label": Path(model).name, "layers": list(range(LAYERS)), "widths": [D_FFN] * LAYERS,
        "corpus": corpus, "corpus_fingerprint": loaded.fingerprint, "categories": list(loaded.categories),
        "exemplar_categories": labels.tolist(), "top_k": 10, "margin": 1, "max_length": 512, "skip_first": False,
    }  # fmt: skip
    write_meta(run.part, meta)
    run.part.rename(run.results)
    run.write_status(Status("done", started=time.time() - 2))


def write_scores(file: Path, random: np.random.Generator) -> None:
    """Write bfloat16 scores of the layers that are shown, and holes for the others."""
    size = 2 * TEXTS * D_FFN
    header = {
        f"layer.{layer}": {"dtype": "BF16", "shape": [TEXTS, D_FFN], "data_offsets": [layer * size, (layer + 1) * size]}
        for layer in range(LAYERS)
    }
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for layer in SHOWN:
            stream.seek(8 + len(text) + layer * size)
            scores = random.gamma(2.0, 1.0, (TEXTS, D_FFN)).astype(np.float32)
            stream.write((scores.view(np.uint32) >> 16).astype(np.uint16).tobytes())
        stream.truncate(8 + len(text) + LAYERS * size)


def prepare(root: Path) -> None:
    """Write the models, the corpus, the stores and the family into a cache."""
    corpus = write_corpus(root / "corpus")
    models = {name: write_model(root / "models" / name) for name in NAMES}
    tuned = tuple(Member(models[name], name, name) for name in NAMES[1:])
    save_family(Family("large", models["base"], tuned, corpus), root / "families")
    for seed, model in enumerate(models.values(), start=1):
        write_store(root, model, corpus, seed)


def timed(page: Page, act: Callable[[], None], repeats: int, between: Callable[[int], None]) -> list[float]:
    """Milliseconds from the key or click in `act` to the changed text, several times."""
    found = []
    for turn in range(repeats):
        between(turn)
        settle(page)
        page.wait_for_timeout(700)  # in which what comes late is drawn
        page.evaluate("() => { window.took = 0; window.pressed = 0; }")
        act()
        page.wait_for_function("() => window.took > 0", timeout=60_000)
        found.append(float(page.evaluate("() => window.took")))
    return found


def measure(page: Page, app: App, repeats: int) -> dict[str, list[float]]:
    """Look at neurons as a reader does, and return the milliseconds of each way."""
    visit(page, app, "Explorer", family="large", layer=str(SHOWN[0]), neuron="5")
    page.evaluate(watch("() => document.querySelector('.st-key-explorer_texts .neuron-grid')?.textContent"))
    layers = iter(SHOWN[1:])

    def other_layer() -> None:
        choose_quickly(page, "layer", str(next(layers)))

    found = {"first neuron": timed(page, other_layer, len(SHOWN) - 1, lambda turn: None)}
    following = keyed(page, "explorer_next").get_by_role("button")
    found["next neuron"] = timed(page, following.click, repeats, lambda turn: None)
    return found | measure_table(page, app, repeats)


def measure_table(page: Page, app: App, repeats: int) -> dict[str, list[float]]:
    """Turn the pages of the table of all neurons, sort it and filter it; return the milliseconds of each way."""
    visit(page, app, "Explorer", family="large", layer=str(SHOWN[0]), neuron="5", explorer_find="true")
    page.evaluate(watch(TABLE))
    later = keyed(page, "explorer_later").get_by_role("button")
    found = {"table, page": timed(page, later.click, repeats, lambda turn: None)}
    for way, key, options in (
        ("table, sort", "explorer_order", ("certainty", "largest score", "selectivity")),
        ("table, filter", "explorer_only", ("math", "other category in code", "general")),
    ):
        asked = iter(options)

        def choose_next(key: str = key, asked: Iterator[str] = asked) -> None:
            choose_quickly(page, key, next(asked))

        found[way] = timed(page, choose_next, len(options), lambda turn: None)
    return found


def choose_quickly(page: Page, key: str, option: str) -> None:
    """Choose an option of a select box; the time counts from the click on it."""
    box = keyed(page, key).locator("input, [role=combobox]").first
    box.click()
    box.fill(option)
    page.get_by_role("option", name=option, exact=True).click()


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--cache", type=Path, help="where the stores are, or shall be; a temporary folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        cache = given.cache or Path(folder) / "cache"
        if not (cache / "families").exists():
            cache.mkdir(parents=True, exist_ok=True)
            prepare(cache.resolve())
        with serve(cache.resolve(), Path(folder) / "app.log") as app:
            browser = playwright.chromium.launch(executable_path=chromium(), args=[*ARGUMENTS])
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            print(f"{'way':16} {'ms':>6} {'worst':>6} {'wanted':>6}")
            for name, found in measure(page, app, given.repeats).items():
                print(f"{name:16} {statistics.median(found):6.0f} {max(found):6.0f} {WANTED[name]:6}")
            browser.close()


if __name__ == "__main__":
    main()
