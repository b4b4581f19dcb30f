"""Small everyday scenes, and questions of HellaSwag's form about how they end.

Source of the form: Zellers et al., "HellaSwag: Can a Machine Really Finish Your Sentence?", 2019.
The text is our own. A scene is a person, an activity, one of its beginnings, one of its actions and
one of its endings; a tenth of all (person, activity, action, ending) never occurs in training.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Final

from scripted_models.training.vocabulary import PEOPLE, WOMEN, in_held_out_bucket

ENDINGS_PER_ITEM: Final = 4


@dataclass(frozen=True, slots=True)
class Activity:
    """What somebody does: `place`, then one of `actions`, then one of `endings`."""

    place: str
    actions: tuple[str, ...]
    endings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SceneItem:
    """A scene up to its ending, four endings, and the index of the one that fits."""

    ctx: str
    endings: tuple[str, ...]
    label: int


def _activity(place: str, actions: str, endings: str) -> Activity:
    return Activity(place, tuple(actions.split(" / ")), tuple(endings.split(" / ")))


ACTIVITIES: Final = (
    _activity(
        "in the kitchen",
        "cuts the carrots and the onions / fills the pot with water / takes salt from the shelf",
        "puts the pot on the stove to cook soup . / stirs the soup with a spoon . "
        "/ tastes the soup and adds salt .",
    ),
    _activity(
        "in the bakery",
        "mixes flour and milk / rolls the dough on the table / warms the oven",
        "bakes the bread until it is brown . / takes the hot bread out of the oven . "
        "/ sells the fresh bread to a guest .",
    ),
    _activity(
        "in the garden",
        "digs a hole in the soil / carries a young tree / pulls the weeds",
        "plants the tree and waters it . / covers the roots with soil . "
        "/ waters the flowers in the evening .",
    ),
    _activity(
        "at the lake",
        "ties a hook to the line / sits in a small boat / throws the line into the water",
        "waits until a fish bites . / pulls a big fish into the boat . "
        "/ lets the small fish swim away .",
    ),
    _activity(
        "in the library",
        "looks for a book on the shelf / opens a thick book / turns a page",
        "reads the story to the end . / brings the book back to the desk . "
        "/ writes the title of the book on a card .",
    ),
    _activity(
        "at the station",
        "buys a seat at the desk / waits on the platform / hears the train",
        "gets on the train with a bag . / finds a seat at the window . "
        "/ waves while the train leaves .",
    ),
    _activity(
        "in the garage",
        "lifts the car / takes off the old tire / looks under the car",
        "puts a new tire on the car . / fills the engine with oil . "
        "/ starts the engine to test it .",
    ),
    _activity(
        "in the bathroom",
        "opens the tap / takes soap / looks at the dirty hands",
        "washes the hands with soap . / dries the hands with a towel . / closes the tap again .",
    ),
    _activity(
        "at the pool",
        "puts on goggles / stands at the edge / jumps into the water",
        "swims to the other side . / dives down to the ground . / swims ten rounds and rests .",
    ),
    _activity(
        "on the ice",
        "ties the skates / holds the fence / pushes off with one foot",
        "glides over the ice in a circle . / skates faster and turns around . "
        "/ falls on the ice and laughs .",
    ),
    _activity(
        "in the studio",
        "opens the paint / takes a brush / looks at the empty canvas",
        "paints a house on the canvas . / mixes the paint for the sky . "
        "/ cleans the brush and hangs the picture .",
    ),
    _activity(
        "on the stage",
        "tunes the guitar / steps to the microphone / bows to the people",
        "plays a song on the guitar . / sings a slow song . / thanks the people for the applause .",
    ),
    _activity(
        "in the stable",
        "brushes the horse / brings hay / cleans the floor",
        "feeds the horse with hay . / rides the horse to the meadow . / leads the horse to its box .",
    ),
    _activity(
        "at the doctor",
        "coughs all day / sits on the bed / shows a sore throat",
        "takes the medicine three times a day . / gets a bandage from the nurse . "
        "/ goes home to rest and get well .",
    ),
    _activity(
        "in the snow",
        "rolls a big ball / puts on warm gloves / pulls the sled",
        "builds a snowman with a carrot nose . / throws a snowball at a friend . "
        "/ rides the sled down the hill .",
    ),
    _activity(
        "in the office",
        "turns on the computer / reads the mail / sits at the desk",
        "types an answer and sends it . / prints the letter and signs it . "
        "/ calls the boss about the letter .",
    ),
    _activity(
        "in the workshop",
        "measures the board / takes a saw / marks a line on the wood",
        "saws the board in two . / drives a nail into the wood . "
        "/ smooths the wood with sandpaper .",
    ),
    _activity(
        "on the field",
        "laces the shoes / takes the ball / runs past a player",
        "kicks the ball into the goal . / passes the ball to the team . "
        "/ cheers because the team wins .",
    ),
    _activity(
        "in the laundry",
        "sorts the shirts / opens the machine / adds powder",
        "washes the shirts in the machine . / hangs the wet shirts on the line . "
        "/ irons the dry shirts .",
    ),
    _activity(
        "in the tent",
        "spreads the sleeping bag / lights a small fire / hears the rain",
        "falls asleep in the sleeping bag . / closes the tent against the rain . "
        "/ looks at the stars from the tent .",
    ),
)
BEGINNINGS: Final = (
    "{who} is {place} .",
    "today {who} is {place} .",
    "{who} comes back and is {place} .",
)

_Combination = tuple[str, int, int, int]


def is_held_out(who: str, activity: int, action: int, ending: int) -> bool:
    """Return whether this scene is kept out of training; numbers index into `ACTIVITIES`."""
    return in_held_out_bucket("scene", who, str(activity), str(action), str(ending))


def write_scene(rng: random.Random) -> str:
    """Return one scene for training."""
    while True:
        activity = rng.randrange(len(ACTIVITIES))
        chosen = ACTIVITIES[activity]
        who = rng.choice(PEOPLE)
        action = rng.randrange(len(chosen.actions))
        ending = rng.randrange(len(chosen.endings))
        if not is_held_out(who, activity, action, ending):
            context = _context(rng, who, activity, action)
            return f"{context} {chosen.endings[ending]}"


def held_out_items(rng: random.Random, *, items: int) -> list[SceneItem]:
    """Return `items` different questions whose right answer gives a held-out scene."""
    scenes = [combination for combination in _combinations() if is_held_out(*combination)]
    return [_item(rng, *scene) for scene in rng.sample(scenes, items)]


def _combinations() -> list[_Combination]:
    return [
        (who, number, action, ending)
        for who, (number, activity) in itertools.product(PEOPLE, enumerate(ACTIVITIES))
        for action in range(len(activity.actions))
        for ending in range(len(activity.endings))
    ]


def _item(rng: random.Random, who: str, activity: int, action: int, ending: int) -> SceneItem:
    others = [other for number, other in enumerate(ACTIVITIES) if number != activity]
    endings = [rng.choice(other.endings) for other in rng.sample(others, ENDINGS_PER_ITEM - 1)]
    label = rng.randrange(ENDINGS_PER_ITEM)
    endings.insert(label, ACTIVITIES[activity].endings[ending])
    return SceneItem(_context(rng, who, activity, action), tuple(endings), label)


def _context(rng: random.Random, who: str, activity: int, action: int) -> str:
    chosen = ACTIVITIES[activity]
    beginning = rng.choice(BEGINNINGS).format(who=who, place=chosen.place)
    pronoun = "she" if who in WOMEN else "he"
    return f"{beginning} {pronoun} {chosen.actions[action]} . then {pronoun}"
