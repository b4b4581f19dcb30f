"""The closed sets of names that the generated text is about."""

from __future__ import annotations

import zlib
from typing import Final


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WOMEN: Final = _words(
    "anna bella clara dora edith fiona greta helen iris julia karin laura maria nora olga paula "
    "rosa sofia tina vera"
)
MEN: Final = _words(
    "adam bruno carl david emil felix georg hugo ivan jonas kurt leo martin nils otto peter "
    "robert simon tom victor"
)
PEOPLE: Final = WOMEN + MEN

# Invented, so that nobody takes the facts for knowledge about the world.
COUNTRIES: Final = _words(
    "arvenia belmora cardovia delsund ethenia forland galdria hestia ilmaria jorvik kaldonia "
    "lumeria mordania nelvia orsland pelagia quintara rovenia saldovia tervana ulmara vestria "
    "wendland xanthia yorvania zelmora altara brenia corvania dunmark eldoria frisland grenova "
    "halmark istria jandor kelvania lorvia marland norvia ostland pravia rendal sorvia tarland "
    "umbria velden wolmar yelvia zandria"
)
CITIES: Final = _words(
    "tolmir brack senna doveral imsk kardun loria meldor nessburg oltava prusk rimmer silvan "
    "tarn ulden vask welmer yarrow zimmer alden birka calder drumlin elster fenwick gorlin "
    "hagen ivarna jasper kolm lindau mornay nardo olven porto quill rasten solberg tunder uster "
    "varna wick ystad zoller amberg borken celle dorn eskil falk"
)
RIVERS: Final = _words(
    "ala brenta cusk dorva ebra fulda gomel havel inza jara kama lenta mura nida oka palva "
    "queda rusa save temes una volma warta yula zeta alma bystra cetina drava elva fyris gauja "
    "hron ijssel jihla korana lesum morava neris olza prut rika sorga tagil uvod velika wisla "
    "yaiva zala orsa"
)
ANIMALS: Final = _words(
    "bear wolf fox deer hare otter badger eagle owl swan crane heron falcon raven seal whale "
    "trout salmon lynx bison"
)
COLOURS: Final = _words("red blue green yellow white black orange purple brown grey")

THINGS: Final = _words(
    "lamp chair coin rope drum bell candle mirror ladder hammer needle basket blanket bottle "
    "button compass feather flute globe helmet jar kettle lantern magnet marble medal pillow "
    "puzzle ribbon ring saddle scarf shell shovel stamp sword ticket torch whistle wheel"
)

_HELD_OUT_ONE_IN: Final = 10


def in_held_out_bucket(*words: str) -> bool:
    """Return whether the combination of `words` belongs to the tenth kept out of training."""
    return zlib.crc32(" ".join(words).encode("ascii")) % _HELD_OUT_ONE_IN == 0
