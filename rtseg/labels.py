"""Label sets (class names and colours) and palettes. All colours are RGB."""

from __future__ import annotations

import colorsys
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtseg.documents import parse_json, shown
from rtseg.errors import UsageError
from rtseg.text import UNPRINTABLE, listed, read_text, user_path

Colour = tuple[int, int, int]
"""(red, green, blue), 0 to 255."""

VOID = 255
"""The index that stands for "no class" in a mask."""

_SIDE = re.compile("left|right")

MAX_NAME = 200
"""Limit of the length of names."""


def is_name(text: str) -> bool:
    """Whether a text can name a network or a class: not empty, not too long, and printable."""
    return len(text.strip()) > 0 and len(text) <= MAX_NAME and not UNPRINTABLE.search(text)


BACKGROUND_NAMES = frozenset(
    "background bg null none nothing backgroundclass unlabelled unlabeled".split()
)
"""Names of the background class, folded."""


def fold(name: str) -> str:
    """The name without case, blanks, `_` and `-`."""
    return re.sub(r"[\s_\-]+", "", name.casefold())


def is_background(name: str) -> bool:
    """Whether this is a name of the background class."""
    return fold(name) in BACKGROUND_NAMES


@dataclass(frozen=True, repr=False)
class LabelSet:
    """The classes of a network: index i is called `names[i]` and drawn in `colours[i]`.

    Attributes:
        names: one per class, in the network's order.
        colours: RGB, as many as names.
        background: index of the background class; None if there is none.

    Raises:
        ValueError: names are empty, equal or not printable, or a colour or the background does
            not exist.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    background: int | None = 0

    def __post_init__(self) -> None:
        if not all(isinstance(each, tuple) for each in (self.names, self.colours)):
            raise ValueError("names and colours are tuples")
        if len(self.names) != len(self.colours):
            raise ValueError(f"{len(self.names)} names but {len(self.colours)} colours")
        if not 2 <= len(self.names) <= VOID:
            raise ValueError(f"a label set has 2 to {VOID} classes, got {len(self.names)}")
        folded = [name.casefold() for name in self.names]
        if bad := [name for name in self.names if not is_name(name)]:
            raise ValueError(f"class {shown(bad[0])} is not 1 to {MAX_NAME} plain characters")
        if len(set(folded)) < len(folded):
            twice = next(name for name in self.names if folded.count(name.casefold()) > 1)
            raise ValueError(f"two classes are called {twice!r}")
        if not all(0 <= level <= 255 for colour in self.colours for level in colour):
            raise ValueError("a colour is red, green and blue from 0 to 255")
        if self.background is not None and not 0 <= self.background < len(self.names):
            raise ValueError(f"there is no class {self.background}, which is to be the background")

    def __repr__(self) -> str:
        return f"<LabelSet of {len(self)}: {listed(self.names, 8)}>"

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name_or_id: str | int) -> int:
        """The index of a class given by name (in any case), by its first synonym or by index.

        Raises:
            UsageError: there is no such class.
        """
        text = str(name_or_id).strip()
        folded = [name.casefold().strip() for name in self.names]
        # ADE20K has "person, individual, someone" for one class
        for known in (folded, [re.split("[,;]", name)[0].strip() for name in folded]):
            if text.casefold() in known:
                return known.index(text.casefold())
        if text.isdecimal() and int(text) < len(self):
            return int(text)
        raise UsageError(f"unknown class {text!r}", found="the model has " + ", ".join(self.names))

    def select(self, classes: Iterable[str | int]) -> frozenset[int]:
        """The indices of classes; raises UsageError if one does not exist.

        "person" of a network that tells apart clothes and parts of the body means all of them.
        """
        return frozenset(
            index
            for name in classes
            for index in (self._parts_of_a_person(name) or (self.index(name),))
        )

    def _parts_of_a_person(self, name: str | int) -> frozenset[int]:
        plain = {_plain(each): index for index, each in enumerate(self.names)}
        if str(name).strip().casefold() != "person" or "person" in plain:
            return frozenset()
        parts = {index for each, index in plain.items() if each in _PARTS}
        rest = set(plain.values()) - parts - {self.background}
        return frozenset(parts if len(parts) > len(rest) and self.background is not None else ())

    @property
    def mirrored(self) -> tuple[int, ...]:
        """The class that each is in a mirror image: the right arm of a left one, most are the same.

        Two classes belong together if their names differ in "left" and "right" only.
        """
        known = {name.casefold(): index for index, name in enumerate(self.names)}
        sides = {"left": "right", "right": "left"}
        others = (_SIDE.sub(lambda side: sides[side[0]], name) for name in known)
        return tuple(known.get(other, index) for index, other in enumerate(others))

    def foreground(self, selected: frozenset[int] | None) -> frozenset[int]:
        """The selected classes (None means all) without the background."""
        classes = frozenset(range(len(self))) if selected is None else selected
        return classes - {self.background}

    def join_names(self, classes: Iterable[int], most: int = 6) -> str:
        """Names in the network's order, at most `most` of them: "cat, dog and 3 more"."""
        return listed([self.names[index] for index in sorted(classes)], most)

    def by_share(self, shares: Mapping[str, float]) -> list[tuple[str, float, Colour]]:
        """Name, share and colour of the classes in view, given by name, the largest first."""
        largest = sorted(shares.items(), key=lambda item: -item[1])
        return [(name, share, self.colours[self.names.index(name)]) for name, share in largest]

    def lookup_table(self, selected: frozenset[int] | None) -> NDArray[np.uint8]:
        """(256,) uint8 that maps a class that is not selected to the background, or to VOID if
        there is none, and any other value to itself.
        """
        table = np.arange(256, dtype=np.uint8)
        if selected is not None:
            nothing = VOID if self.background is None else self.background
            for index in range(len(self)):
                if index not in selected:
                    table[index] = nothing
        return table

    def with_colours(self, colours: Sequence[Colour]) -> LabelSet:
        """The same classes in other colours.

        Raises:
            UsageError: there are fewer colours than classes.
        """
        if len(colours) < len(self):
            raise UsageError(
                f"a palette for {len(self)} classes", found=f"it has {len(colours)} colours"
            )
        return replace(self, colours=tuple(colours[: len(self)]))


def voc_colours(count: int = 256) -> tuple[Colour, ...]:
    """The first `count` colours of Pascal VOC: the bits of the index, spread over R, G and B."""

    def channel(index: int, offset: int) -> int:
        return sum(((index >> (3 * bit + offset)) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(count))


def _names(text: str) -> tuple[str, ...]:
    """Names separated by white space; an underscore stands for a space within a name."""
    return tuple(word.replace("_", " ") for word in text.split())


def _colours(text: str) -> tuple[Colour, ...]:
    """`rrggbb rrggbb ...` as RGB triples."""
    values = [bytes.fromhex(word) for word in text.split()]
    return tuple((value[0], value[1], value[2]) for value in values)


VOC = LabelSet(
    _names(
        """
    background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse
    motorbike person pottedplant sheep sofa train tvmonitor
    """
    ),
    voc_colours(21),
)
"""Pascal VOC 2012."""

PERSON = LabelSet(("background", "person"), ((0, 0, 0), (0, 200, 120)))

SHAPE_LABELS = LabelSet(
    ("background", "circle", "square", "triangle"),
    ((0, 0, 0), (220, 40, 60), (40, 180, 60), (50, 90, 230)),
)
"""The classes of the synthetic source."""

SHAPE_COLOURS: dict[int, tuple[int, int, int]] = {
    index: (blue, green, red)
    for index, (red, green, blue) in enumerate(SHAPE_LABELS.colours)
    if index != SHAPE_LABELS.background
}
"""BGR by class index: the synthetic source fills each shape with exactly this colour, without soft
edges. Its background and frame number are grey, so no other pixel has a similar colour."""

# Cityscapes: the 19 classes of training and evaluation by train id (cityscapesScripts). There is
# no background class: other pixels are 255.
CITYSCAPES = LabelSet(
    _names(
        """
    road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky
    person rider car truck bus train motorcycle bicycle
    """
    ),
    _colours(
        """
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000
    00008e 000046 003c64 005064 0000e6 770b20
    """
    ),
    background=None,
)

# ADE20K: the 150 classes of the MIT scene parsing benchmark, each with the first of its names, and
# the colours of the benchmark's color150 table, where road and skyscraper share one. Index 0 is
# wall, as in networks trained without the benchmark's class "other".
ADE20K = LabelSet(
    _names(
        """
    wall building sky floor tree ceiling road bed windowpane grass cabinet sidewalk person earth
    door table mountain plant curtain chair car water painting sofa shelf house sea mirror rug
    field armchair seat fence desk rock wardrobe lamp bathtub railing cushion base box column
    signboard chest_of_drawers counter sand sink skyscraper fireplace refrigerator grandstand
    path stairs runway case pool_table pillow screen_door stairway river bridge bookcase blind
    coffee_table toilet flower book hill bench countertop stove palm kitchen_island computer
    swivel_chair boat bar arcade_machine hovel bus towel light truck tower chandelier awning
    streetlight booth television_receiver airplane dirt_track apparel pole land bannister
    escalator ottoman bottle buffet poster stage van ship fountain conveyer_belt canopy washer
    plaything swimming_pool stool barrel basket waterfall tent bag minibike cradle oven ball
    food step tank trade_name microwave pot animal bicycle lake dishwasher screen blanket
    sculpture hood sconce vase traffic_light tray ashcan fan pier crt_screen plate monitor
    bulletin_board shower radiator glass clock flag
    """
    ),
    _colours(
        """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d
    787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0
    0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06
    ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00
    ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70
    00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99
    ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52
    000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00
    08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff
    9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
    00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8
    005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
    """
    ),
    background=None,
)

# COCO-Stuff: 80 things and 91 stuffs in the order in which networks are trained (mmsegmentation's
# train ids), other pixels are 255.
_COCO_STUFF_NAMES = _names(
    """
    person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign
    parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella
    handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove
    skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple
    sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed
    dining_table toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster sink
    refrigerator book clock vase scissors teddy_bear hair_drier toothbrush banner blanket branch
    bridge building-other bush cabinet cage cardboard carpet ceiling-other ceiling-tile cloth
    clothes clouds counter cupboard curtain desk-stuff dirt door-stuff fence floor-marble
    floor-other floor-stone floor-tile floor-wood flower fog food-other fruit furniture-other grass
    gravel ground-other hill house leaves light mat metal mirror-stuff moss mountain mud napkin net
    paper pavement pillow plant-other plastic platform playingfield railing railroad river road rock
    roof rug salad sand sea shelf sky-other skyscraper snow solid-other stairs stone straw
    structural-other table tent textile-other towel tree vegetable wall-brick wall-concrete
    wall-other wall-panel wall-stone wall-tile wall-wood water-other waterdrops window-blind
    window-other wood
    """
)

_LIP_NAMES = _names(
    """
    background hat hair glove sunglasses upper-clothes dress coat socks pants jumpsuits scarf skirt
    face left-arm right-arm left-leg right-leg left-shoe right-shoe
    """
)

_ATR_NAMES = _names(
    """
    background hat hair sunglasses upper-clothes skirt pants dress belt left-shoe right-shoe face
    left-leg right-leg left-arm right-arm bag scarf
    """
)

_SAME = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "minibike": "motorcycle",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "television receiver": "tv",
    "vegetation": "tree",
    "building other": "building",
    "sky other": "sky",
    "water other": "water",
    "pavement": "sidewalk",
}
"""Names of one thing in several label sets -> the one whose colour they have."""


def _plain(name: str) -> str:
    """A class name as it is compared: "Upper-clothes" is "upper clothes"."""
    spaced = re.sub("([a-z])([A-Z])", r"\1 \2", re.split("[,;]", name)[0])
    plain = re.sub("[-_ ]+", " ", spaced).strip().casefold()
    return _SAME.get(plain, plain)


_PARTS = {_plain(name) for name in (*_LIP_NAMES, *_ATR_NAMES)} - {"background"} | {
    *"neck torso body skin clothes arm leg foot shoe hand upperclothes".split(),
    *"head ear eye nose mouth lips glasses jewelry bag top".split(),
    *("body skin", "face skin", "torso skin", "upper body", "lower body", "others", "accessories"),
}
"""Parts of people and what they wear."""


def colours_by_name(names: Sequence[str]) -> tuple[Colour, ...]:
    """A colour per class that depends on its name: a person has the same in every network.

    Names of Cityscapes and ADE20K have the colours there, a background is black, and others have
    one that follows from the name. Two classes of a network never share one.
    """
    known = {
        _plain(name): colour
        for labels in (ADE20K, CITYSCAPES)
        for name, colour in zip(labels.names, labels.colours, strict=True)
    }
    known["background"] = (0, 0, 0)
    found: list[Colour] = []
    for name in map(_plain, names):
        options = itertools.chain((known.get(name),), (_drawn(name, n) for n in itertools.count()))
        found.append(next(each for each in options if each and each not in found))
    return tuple(found)


def _drawn(name: str, number: int) -> Colour:
    """A bright colour that follows from a name, the `number`th of its own."""
    hue, *rest = hashlib.sha256(f"{name}{number}".encode()).digest()[:3]
    red, green, blue = colorsys.hsv_to_rgb(hue / 256, 0.5 + rest[0] / 512, 0.6 + rest[1] / 640)
    return round(255 * red), round(255 * green), round(255 * blue)


PALETTES: dict[str, tuple[Colour, ...]] = {
    "voc": voc_colours(VOID),
    "cityscapes": CITYSCAPES.colours,
    "ade20k": ADE20K.colours,
    "ade": ADE20K.colours,
}
"""The palettes by name."""

_RGB_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_CONES_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


COCO_STUFF, LIP, ATR = (
    LabelSet(names, colours_by_name(names), 0 if names[0] == "background" else None)
    for names in (_COCO_STUFF_NAMES, _LIP_NAMES, _ATR_NAMES)
)
"""COCO-Stuff; Look into Person, and ATR: clothes and parts of the body."""


def palette(text: str, count: int, names: Sequence[str] = ()) -> tuple[Colour, ...]:
    """`count` colours, by name (`voc`, `cityscapes`, `ade20k`), as `random:SEED`, or from a file.

    `names` means those of `colours_by_name`, of the classes of these names.

    A colour file has one class per line, `r g b [name]` or `#rrggbb [name]`; blank lines and lines
    that start with `# ` are ignored. A `.json` file contains a list of `[r, g, b]` and `"#rrggbb"`.

    Raises:
        UsageError: there is no such palette, a line is not a colour, or there are fewer than
            `count` colours.
    """
    name, _, seed = text.strip().partition(":")
    if (file := palette_file(text)) is not None:
        colours = _file_colours(file)
    elif name.casefold() == "names":
        return colours_by_name(names or [*map(str, range(count))])
    elif name.casefold() == "random":
        return random_colours(_seed(seed or "0"), count)
    else:
        colours = PALETTES[name.casefold()]
    if len(colours) < count:
        raise UsageError(
            f"palette {text!r} for {count} classes",
            found=f"it has {len(colours)} colours",
            do="Add colours, or use random:0, which has as many as needed.",
        )
    return colours[:count]


def palette_file(text: str) -> Path | None:
    """The file that `palette` reads; None if the text names something else."""
    named = text.strip().casefold()
    known = named in PALETTES or named == "names" or named.partition(":")[0] == "random"
    return None if known else user_path(text)


def random_colours(seed: int, count: int) -> tuple[Colour, ...]:
    """Black, then colours that are easy to tell apart; the same for the same seed.

    Each is the candidate farthest from those before it in Oklab, a perceptually uniform colour
    space (Ottosson, 2020), so the first n do not depend on `count`.
    """
    generator = np.random.default_rng(seed)
    candidates = generator.integers(0, 256, (2048, 3))
    places = _oklab(candidates)
    bright = places[:, 0] > 0.45  # darker ones resemble one another and black
    candidates, places = candidates[bright], places[bright]
    nearest = np.full(len(places), np.inf)
    # start from grey, so that greys, which look like shadows in the image, come late
    nearest = np.minimum(nearest, np.linalg.norm(places - _oklab(np.array([128] * 3)), axis=1))
    chosen = [int(generator.integers(len(places)))]
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
        chosen.append(int(nearest.argmax()))
    picked = [(int(r), int(g), int(b)) for r, g, b in candidates[chosen]]
    return ((0, 0, 0), *picked)[:count]


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(
            f"palette random:{text}", found="the seed is not a whole number, such as random:7"
        )
    return int(text)


def _oklab(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """(..., 3) sRGB 0..255 to (..., 3) Oklab: lightness 0..1, and two colour axes."""
    share = rgb / 255.0
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    cones = np.cbrt(linear @ _RGB_TO_CONES.T)
    return cones @ _CONES_TO_OKLAB.T


def _file_colours(path: Path) -> tuple[Colour, ...]:
    try:
        if not path.is_file():
            raise UsageError(
                f"unknown palette {str(path)!r}",
                found="neither a palette nor a file",
                do="Use voc, cityscapes, ade20k, names, random:SEED or a colour file.",
            )
        text = read_text(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"colour file {str(path)!r}", found=f"cannot be read: {error}") from error
    colours = _json_colours(text, path) if path.suffix == ".json" else _line_colours(text, path)
    return tuple(colours)


def _line_colours(text: str, path: Path) -> Iterator[Colour]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or words[0] == "#":
            continue
        yield _colour(words[0] if words[0].startswith("#") else words[:3], f"{path}:{number}")


def _json_colours(text: str, path: Path) -> Iterator[Colour]:
    values = parse_json(text, list[Any], f"colour file {str(path)!r}")
    for number, value in enumerate(values, 1):
        yield _colour(value, f"{path}, colour {number}")


def _colour(value: object, where: str) -> Colour:
    """Parse `#rrggbb`, or three numbers as int or text.

    Raises:
        UsageError: it is not a colour; the message contains `where`.
    """
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    if isinstance(value, list) and len(value) == 3 and all(_is_level(part) for part in value):
        return int(value[0]), int(value[1]), int(value[2])
    raise UsageError(
        f"bad colour at {where}",
        found=shown(" ".join(map(str, value)) if isinstance(value, list) else value),
        do="Write r g b with numbers from 0 to 255, or #rrggbb.",
    )


def _is_level(part: object) -> bool:
    """Whether this is a whole number from 0 to 255, as int or text."""
    text = part if isinstance(part, str) else str(part) if type(part) is int else ""
    return text.isascii() and text.isdecimal() and len(text) < 4 and int(text) <= 255
