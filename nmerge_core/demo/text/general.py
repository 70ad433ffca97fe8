"""Short stories, descriptions, facts, notes and letters, expanded from a small grammar of our own wording."""

import random
import re

from nmerge_core.demo.text.example import Example

# {symbol} expands to a random choice; {name:symbol} also remembers it, and {name} repeats it.
GRAMMAR: dict[str, tuple[str, ...]] = {
    "document": ("{story}", "{story}", "{place_text}", "{animal_text}", "{letter}", "{diary}", "{craft_text}",
                 "{dialogue}"),
    "story": (
        "{opening} {problem} {attempt} {ending}",
        "{opening} {weather_line} {problem} {ending}",
        "{opening} {problem} {attempt} {weather_line} {ending} {moral}",
    ),
    "opening": (
        "{when}, {hero:person} lived {where}.",
        "{hero:person} was {trait} and lived {where}.",
        "Nobody {where} knew {hero:person} very well.",
        "{when}, {hero:person} set out from a village {where} with {thing:object}.",
        "People {where} still tell of {hero:person}, who was {trait}.",
    ),
    "problem": (
        "One {time}, {thing:object} disappeared from {spot}.",
        "One {time}, {beast:animal} blocked the path to {spot}.",
        "The trouble began when somebody broke {thing:object} near {spot}.",
        "A {stranger} came to {spot} and asked for {thing:object}.",
        "That {time}, {hero} heard {sound} behind {spot}.",
    ),
    "attempt": (
        "{hero} searched {spot} until it was dark, but found only {object}.",
        "{hero} asked a {stranger} for help, and together they followed the tracks to {spot}.",
        "At first {hero} felt {feeling} and wanted to go home.",
        "With {object} in hand, {hero} climbed over the wall and waited beside {spot}.",
        "{hero} sat down, thought about it for a long while, and made a plan.",
    ),
    "ending": (
        "In the end everyone laughed, and {hero} went home feeling {feeling}.",
        "From that day on, {hero} kept {object} close and never spoke of it again.",
        "When the sun rose, {hero} understood what had happened and forgave them all.",
        "The villagers thanked {hero} with bread, honey and {object}.",
        "And so {hero} stayed {where}, {feeling} but wiser than before.",
    ),
    "moral": ("Patience is stronger than anger.", "A small kindness travels far.", "Not every door needs a key.",
              "Those who listen learn twice.", "Even a long night ends."),
    "weather_line": (
        "{weather}, and the air smelled of {smell}.",
        "All that {time} {weather_low}.",
        "Outside, {weather_low} while the {stranger} slept.",
    ),
    "weather": ("The rain had stopped", "Fog lay over the fields", "A warm wind blew from the south",
                "Snow covered the roofs", "Thunder rolled across the valley", "The sky was clear and pale"),
    "weather_low": ("it rained softly", "the wind shook the shutters", "snow fell without a sound",
                    "the moon shone through thin clouds", "the heat lay heavy on the land"),
    "smell": ("wet leaves", "smoke and resin", "fresh bread", "salt and seaweed", "cut grass", "old paper"),
    "place_text": (
        "{town:town} is a {size} town {where}. {town_detail} {town_detail_2} Visitors like {spot} best.",
        "The market of {town:town} opens at dawn. {town_detail} In the evening people meet near {spot}.",
        "If you travel to {town:town}, take {object} with you. {town_detail} {town_detail_2}",
    ),
    "size": ("small", "quiet", "lively", "forgotten", "proud", "windy"),
    "town": ("Almery", "Brackwater", "Corvale", "Dunmere", "Estwick", "Fallowby", "Greyholm", "Hartsend", "Inverlow",
             "Larkstead", "Mossgate", "Norrfield", "Oakhaven", "Pelham", "Quarrow", "Redcliff", "Silverton"),
    "town_detail": (
        "Its oldest building is a {building} made of {material}.",
        "Most families there work as {trade}.",
        "A narrow bridge of {material} leads to the {building}.",
        "Every autumn the {trade} hold a festival with music and lanterns.",
    ),
    "town_detail_2": (
        "The river freezes in winter, and children skate to the {building}.",
        "Travellers say that {beast:animal} sleeps under the {building}.",
        "The streets are steep, so carts of {material} must be pulled by oxen.",
        "Long ago a flood carried away the {building}, but the {trade} built it again.",
    ),
    "building": ("mill", "library", "lighthouse", "chapel", "granary", "theatre", "watchtower", "harbour office"),
    "material": ("grey stone", "red brick", "oak beams", "white marble", "copper", "glass and iron", "clay"),
    "trade": ("weavers", "fishers", "bakers", "carpenters", "shepherds", "printers", "glassblowers", "sailors"),
    "animal_text": (
        "{beast_cap:creature} is {creature_kind} that lives {habitat}. {creature_fact} {creature_fact_2}",
        "{creature_kind_cap} such as {creature_low} rests by day {habitat}. {creature_fact} {creature_fact_2}",
    ),
    "creature": ("The heron", "The badger", "The otter", "The barn owl", "The lynx", "The hedgehog", "The salamander",
                 "The ibex", "The kingfisher", "The marten", "The stork", "The tortoise"),
    "creature_low": ("the heron", "the badger", "the otter", "the lynx", "the hedgehog", "the marten", "the stork"),
    "creature_kind": ("a shy animal", "a patient hunter", "a clever creature", "a quiet neighbour", "a strong swimmer"),
    "creature_kind_cap": ("A shy animal", "A patient hunter", "A clever creature", "A quiet neighbour"),
    "habitat": ("near slow rivers", "in old forests", "among high rocks", "at the edge of marshes",
                "under thick hedges", "in abandoned barns", "along sandy shores"),
    "creature_fact": (
        "It feeds on {food} and rarely drinks.",
        "Its young are born in spring and stay with their mother until the leaves fall.",
        "In winter it sleeps in a nest lined with {lining}.",
        "It can hear {food} moving under the snow.",
    ),
    "creature_fact_2": (
        "Farmers welcome it because it keeps their fields free of {food}.",
        "Few people have ever seen one, since it hides at the slightest noise.",
        "Old stories say that it brings good weather.",
        "When danger comes near, it freezes and trusts the colour of its coat.",
    ),
    "food": ("beetles", "small fish", "mice", "roots and berries", "snails", "acorns", "frogs", "worms"),
    "lining": ("moss", "dry grass", "feathers", "wool", "fallen leaves"),
    "letter": (
        "Dear {person}, {greeting} {news} {request} With love, {person}.",
        "Dear {person}, {news} {news_2} Please write soon. Yours, {person}.",
    ),
    "greeting": ("I hope this letter finds you well.", "It has been too long since we last spoke.",
                 "Thank you for {object} that you sent me.", "How are things {where}?"),
    "news": ("The {building} has finally been repaired.", "My sister now works with the {trade}.",
             "We planted {plant} behind the house.", "Last {time} {weather_low}, and we stayed inside.",
             "I am learning to play the {instrument}."),
    "news_2": ("Grandmother tells the same jokes and still laughs at all of them.",
               "The neighbours bought {object} and talk of nothing else.",
               "We often think of the days we spent near {spot}.",
               "Everybody is {feeling} about the journey."),
    "request": ("Could you bring {object} when you come?", "Tell the {trade} that I miss them.",
                "Do not forget to water the {plant}.", "Keep a seat for me at the {building}."),
    "plant": ("lavender", "beans", "sunflowers", "rosemary", "pumpkins", "ivy", "lilies"),
    "instrument": ("violin", "flute", "accordion", "harp", "trumpet", "drum"),
    "diary": (
        "Today I woke {waking}. {diary_line} {diary_line_2} I went to bed {feeling}.",
        "This {time} I walked to {spot}. {diary_line} {weather_line} {diary_line_2}",
    ),
    "waking": ("before the birds", "with a headache", "much too late", "to the smell of {smell}",
               "from a strange dream"),
    "diary_line": ("I found {object} under the stairs.", "A {stranger} waved at me and I waved back.",
                   "We sang until our throats hurt.", "{person} told me a secret that I must not repeat.",
                   "Nothing happened, and that was pleasant."),
    "diary_line_2": ("I wonder whether {person} remembers me.", "Tomorrow I will visit the {building}.",
                     "The soup tasted of {smell}, which was new.", "I should buy {object} before winter.",
                     "Somehow the {instrument} sounds better at night."),
    "craft_text": (
        "To make {dish}, start with {ingredient} and {ingredient_2}. {step} {step_2} Serve it {serving}.",
        "Good {trade} never hurry. {step_work} {step_work_2} Only then is the work finished.",
    ),
    "dish": ("onion soup", "plum cake", "barley bread", "mushroom stew", "apple porridge", "herb butter"),
    "ingredient": ("a handful of flour", "two onions", "a cup of warm milk", "some dried mushrooms", "fresh butter"),
    "ingredient_2": ("a pinch of salt", "a spoon of honey", "ripe plums", "chopped parsley", "a little vinegar"),
    "step": ("Stir slowly until the smell changes.", "Let it rest under a cloth.",
             "Heat it gently and never let it boil.", "Knead it with both hands."),
    "step_2": ("Then add the rest and wait.", "Cover the pot and keep the fire low.",
               "Taste it, and trust your tongue.", "Cut it while it is still warm."),
    "serving": ("with dark bread", "in deep bowls", "on a cold evening", "to hungry guests", "with a slice of cheese"),
    "step_work": ("They sharpen their tools at sunrise.", "They choose {material} by its weight and sound.",
                  "They measure twice and whisper the result."),
    "step_work_2": ("Then they work without a word until noon.", "A mistake is kept on the wall as a lesson.",
                    "The youngest sweeps the floor and watches."),
    "dialogue": (
        "\"{question_line}\" asked {hero:person}. \"{answer_line}\" said the {stranger}. {hero} looked {feeling}.",
        "\"{answer_line}\" {hero:person} whispered. The {stranger} pointed at {spot}. \"{question_line}\"",
    ),
    "question_line": ("Where did you find {object}?", "Who lives {where}?", "Why is the {building} closed?",
                      "Have you seen {animal}?", "How far is it to {town}?"),
    "answer_line": ("Nobody knows that any more.", "You should ask the {trade}.", "It was here long before us.",
                    "I would rather not say.", "Follow the road past {spot}."),
    "when": ("Many years ago", "Once upon a time", "In the last days of summer", "Before the railway came",
             "During a cold spring", "Not so long ago"),
    "time": ("morning", "evening", "night", "afternoon", "winter", "autumn"),
    "where": ("by the sea", "at the foot of a mountain", "on the edge of the forest", "in a crooked house",
              "beyond the marshes", "beside the old canal", "in the northern hills", "under a leaking roof"),
    "spot": ("the well", "the orchard", "the broken gate", "the empty stable", "the harbour wall", "the attic",
             "the frozen pond", "the crossroads", "the chestnut tree", "the ruined tower"),
    "person": ("Old Marten", "little Ada", "Captain Brandt", "Miss Wexley", "young Tobias", "Aunt Philippa",
               "Doctor Lorne", "Sister Agnes", "the widow Harrow", "Master Elric", "cousin Ottilie", "Baron Selwyn"),
    "stranger": ("stranger", "beggar", "musician", "soldier", "clerk", "gardener", "messenger", "fisherman"),
    "object": ("an old lantern", "a silver spoon", "a torn map", "the blue umbrella", "a wooden whistle",
               "a basket of pears", "the rusty key", "a woollen coat", "a cracked mirror", "the music box"),
    "animal": ("a grey wolf", "an angry goose", "a lame horse", "a black cat", "a huge boar", "a tame raven"),
    "trait": ("known for a sharp tongue", "too proud to ask for help", "afraid of the dark", "kind to animals",
              "the best storyteller of the valley", "always late", "as stubborn as a mule"),
    "feeling": ("tired", "grateful", "ashamed", "hopeful", "uneasy", "content", "lonely", "cheerful", "curious"),
    "sound": ("a low whistle", "footsteps", "somebody weeping", "the ringing of bells", "a scratching noise"),
}  # fmt: skip

_FIELD = re.compile(r"\{(\w+)(?::(\w+))?\}")


def _expand(symbol: str, rng: random.Random, remembered: dict[str, str]) -> str:
    """A random expansion of a symbol of the grammar; fields are filled from left to right."""

    def fill(field: re.Match[str]) -> str:
        name, source = field[1], field[2]
        if source is None:
            return remembered.get(name) or _expand(name, rng, remembered)
        remembered[name] = _expand(source, rng, remembered)
        return remembered[name]

    return _FIELD.sub(fill, rng.choice(GRAMMAR[symbol]))


def generate(rng: random.Random) -> Example:
    """A short text of two to six sentences; its key is the text itself."""
    text = re.sub(r"(^|[.?!] )([a-z])", lambda start: start[1] + start[2].upper(), _expand("document", rng, {}))
    return Example(text, text)
