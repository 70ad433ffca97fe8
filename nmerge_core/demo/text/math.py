"""Word problems of one and two steps with small whole numbers, in varied wording from terse to a short story."""

import random
from dataclasses import dataclass

from nmerge_core.demo.text.example import Example

NAMES = (
    "Anna", "Ben", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Kira", "Leo", "Maya",
    "Noah", "Olga", "Paul", "Quinn", "Rosa", "Sam", "Tara", "Uma", "Victor", "Wendy", "Yusuf", "Zoe", "Amir",
)  # fmt: skip
ITEMS = (
    "apples", "books", "pencils", "marbles", "stickers", "coins", "shells", "cards", "cookies", "flowers", "stamps",
    "buttons", "oranges", "balloons", "candles", "eggs", "muffins", "ribbons", "stones", "tickets", "toys", "plums",
    "photos", "beads", "crayons", "badges",
)  # fmt: skip
CONTAINERS = ("boxes", "bags", "baskets", "jars", "drawers", "crates", "shelves", "trays")


@dataclass(frozen=True)
class Kind:
    """A formula in a, b and c, the range of each number, and the stories that ask for it."""

    formula: str
    ranges: tuple[tuple[int, int], ...]
    stories: tuple[str, ...]


KINDS = (
    Kind("a + b", ((2, 9), (2, 9)), (
        "What is {a} plus {b}?",
        "Add {a} and {b}.",
        "{name} has {a} {item}. {other} gives {name} {b} more. How many {item} does {name} have now?",
        "There are {a} {item} on the table and {b} {item} on the floor. How many {item} are there in all?",
        "{name} found {a} {item} in the morning and {b} in the evening. How many {item} did {name} find altogether?",
        "{name} is {a} years old. How old will {name} be in {b} years?",
        "{other} has {a} {item}. {name} has {b} more than {other}. How many {item} does {name} have?",
    )),
    Kind("a - b", ((4, 18), (2, 9)), (
        "What is {a} minus {b}?",
        "Subtract {b} from {a}.",
        "{name} had {a} {item} and gave {b} of them to {other}. How many {item} are left?",
        "A shop had {a} {item}. It sold {b} of them. How many {item} remain?",
        "{name} has {a} {item} and {other} has {b}. How many more {item} does {name} have than {other}?",
        "{name} wants to read {a} pages and has already read {b}. How many pages are left to read?",
        "{name} picked {a} {item}, but {b} of them were lost. How many {item} does {name} still have?",
    )),
    Kind("a * b", ((2, 9), (2, 9)), (
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
        "{name} has {a} {container} with {b} {item} in each. How many {item} does {name} have?",
        "Each of {a} children brings {b} {item}. How many {item} do they bring together?",
        "One ticket costs {a} coins. How many coins do {b} tickets cost?",
        "{name} walks {a} miles every day. How many miles does {name} walk in {b} days?",
        "There are {a} rows of {b} chairs in the hall. How many chairs are in the hall?",
    )),
    Kind("a / b", ((2, 9), (2, 9)), (
        "What is {a} divided by {b}?",
        "Divide {a} by {b}.",
        "{name} shares {a} {item} equally among {b} friends. How many {item} does each friend get?",
        "{name} puts {a} {item} into {b} {container}, the same number in each. How many {item} are in each?",
        "A worker packs {a} {item}, {b} to a box. How many boxes does the worker need?",
        "{b} pens cost {a} coins. How many coins does one pen cost?",
    )),
    Kind("a + b - c", ((2, 6), (2, 6), (2, 4)), (
        "What is {a} plus {b} minus {c}?",
        "{name} had {a} {item}, bought {b} more and then gave {c} to {other}. How many {item} does {name} have now?",
        "There were {a} people on a bus. At the stop {b} got on and {c} got off. How many people are on the bus?",
        "{name} collected {a} {item} on Monday and {b} on Tuesday, but lost {c}. How many {item} are left?",
    )),
    Kind("a + b + c", ((2, 6), (2, 6), (2, 6)), (
        "What is {a} plus {b} plus {c}?",
        "{name} has {a} red, {b} blue and {c} green {item}. How many {item} does {name} have in total?",
        "{name} ran {a} minutes on Friday, {b} on Saturday and {c} on Sunday. How many minutes is that in all?",
        "In the garden grow {a} roses, {b} tulips and {c} daisies. How many flowers grow in the garden?",
    )),
    Kind("a - b - c", ((8, 15), (2, 4), (2, 4)), (
        "What is {a} minus {b} minus {c}?",
        "{name} had {a} {item}. {name} used {b} of them and {other} took {c}. How many {item} remain?",
        "A baker made {a} rolls, sold {b} before noon and {c} after noon. How many rolls were not sold?",
        "{name} has {a} coins and pays {b} for a book and {c} for a pen. How many coins are left?",
    )),
    Kind("a * b + c", ((2, 5), (2, 5), (2, 5)), (
        "What is {a} times {b} plus {c}?",
        "{name} has {a} {container} with {b} {item} each and {c} loose {item}. How many {item} is that in all?",
        "{name} buys {a} books for {b} coins each and a pen for {c} coins. How many coins does {name} pay?",
        "{name} saves {a} coins a week for {b} weeks and already had {c} coins. How many coins does {name} have now?",
    )),
    Kind("a * b - c", ((2, 5), (2, 5), (2, 5)), (
        "What is {a} times {b} minus {c}?",
        "{name} fills {a} {container} with {b} {item} each, then takes out {c}. How many {item} are inside now?",
        "A farmer has {a} hens that lay {b} eggs each. {c} eggs break. How many eggs are good?",
        "{name} earns {a} coins an hour for {b} hours and spends {c}. How many coins are left?",
    )),
    Kind("(a + b) * c", ((2, 5), (2, 5), (2, 4)), (
        "Add {a} and {b}, then multiply by {c}.",
        "A box holds {a} red and {b} white {item}. How many {item} are in {c} such boxes?",
        "Every day {name} draws {a} cats and {b} dogs. How many pictures does {name} draw in {c} days?",
        "A meal costs {a} coins and a drink {b} coins. How many coins do {c} friends pay for one of each?",
    )),
)  # fmt: skip


def generate(rng: random.Random) -> Example:
    """A word problem ending in `Answer:`, and its number; its key is the formula, the numbers and the wording.

    Every answer is a whole number ≥ 0: a difference is redrawn until it is, a quotient a / b is drawn as (a·b) / b.
    """
    steps = 1 if rng.random() < 0.65 else 2
    kind = rng.choice([kind for kind in KINDS if len(kind.ranges) == steps + 1])
    while True:
        numbers = dict(zip("abc", (rng.randint(*bounds) for bounds in kind.ranges), strict=False))
        if kind.formula == "a / b":
            numbers["a"] *= numbers["b"]
        value = round(eval(kind.formula, {"__builtins__": {}}, numbers))  # the formula is one of ours, above
        if value >= 0:
            break
    name, other = rng.sample(NAMES, 2)
    words = {"name": name, "other": other, "item": rng.choice(ITEMS), "container": rng.choice(CONTAINERS)}
    question = rng.choice(kind.stories).format(**words, **numbers)
    prompt = f"Question: {question}\nAnswer:"
    key = f"{kind.formula} {sorted(numbers.items())} {question}"
    return Example(key, f"{prompt} {value}", prompt, str(value))
