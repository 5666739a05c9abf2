"""The off-grid part of the world: scenes as users make them, not laid out for a model.

Things stand anywhere, at 6 to 45 % of the picture's side, rotated where their shape allows it, sometimes across the
picture's edge; colours come in every shade that is nearest to its name; stripes have any width and direction.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from training.photographs import pixels_of, random_crop
from training.world import COLOURS, LETTERS, PHOTOGRAPH, Background, Finish, Place, Scene, Shade, Thing, Weave

RADII = 0.03, 0.225  # of the shorter side: 6 to 45 % across
SMALLEST = 5.0  # px of radius; the autoencoder loses smaller things
EDGE = 0.15  # probability that a thing may cross the picture's edge
TURNS = {"circle": 0, "ring": 0, "triangle": 180, "star": 36, "square": 20, "diamond": 20}  # largest rotation, degrees
LETTER_TURN = 20
UPRIGHT = 0.4  # fraction of things that are not rotated
SHADED = 0.7  # fraction of colours drawn as another shade of their name
SHADE_REACH = 80  # largest difference of a shade's channel from the colour's own (0..255)
SHADE_MARGIN = 1.5  # the next colour is at least this factor farther away than the shade's own
GAP = 2.0  # px between things
TRIES = 40  # positions tried for a thing
CONTRAST = 0.3  # smallest distance of a thing's colour from the pixels behind it, in RGB of 0..1
FINISHED = 0.6  # fraction of the things on a photograph that are lit, soft and cast a shadow


def shade_of(rng: random.Random, colour: str) -> Shade | None:
    """A random shade that is clearly nearest to its own colour's name, or None for the standard colour."""
    if rng.random() >= SHADED:
        return None
    own = COLOURS[colour]
    while True:
        reach = rng.uniform(0, SHADE_REACH)
        shade = tuple(round(min(max(c + rng.uniform(-reach, reach), 0), 255)) for c in own)
        others = min(math.dist(shade, other) for name, other in COLOURS.items() if name != colour)
        if others >= SHADE_MARGIN * math.dist(shade, own):
            return shade


def free_background(rng: random.Random, background: Background, width: int, height: int) -> Background:
    """A background with the same name in other shades, and with other stripes or squares."""
    first, second = shade_of(rng, background.first), shade_of(rng, background.second)
    if background.pattern == "plain":
        return Background("plain", background.first, background.first, (first, first))
    weave = Weave(min(width, height) * rng.uniform(0.04, 0.25), rng.uniform(0, 360), rng.uniform(0, 64))
    if rng.random() < 0.5:  # half of them vertical or horizontal, as most are
        weave = Weave(weave.period, 90 * rng.randrange(4), weave.phase)
    return Background(background.pattern, background.first, background.second, (first, second), weave)


def turn_of(rng: random.Random, shape: str) -> float:
    """A random rotation for a thing of this shape, in degrees."""
    most = LETTER_TURN if shape in LETTERS else TURNS[shape]
    return 0.0 if rng.random() < UPRIGHT else rng.uniform(-most, most)


def overlap(place: Place, others: tuple[Place, ...]) -> bool:
    """Whether the circumscribed circle of a thing would touch those of others."""
    reaches = (math.dist((place.x, place.y), (o.x, o.y)) - o.radius - place.radius for o in others)
    return any(reach < GAP for reach in reaches)


def free_place(rng: random.Random, shape: str, others: tuple[Place, ...], width: int, height: int) -> Place | None:
    """A random position and size without contact to others; None if there is no room."""
    side = min(width, height)
    for attempt in range(TRIES):
        most = RADII[1] * side * (1 - attempt / (2 * TRIES))  # smaller where it is crowded
        least = max(RADII[0] * side, SMALLEST)
        radius = math.exp(rng.uniform(math.log(least), math.log(most)))
        inside = 0.4 * radius if rng.random() < EDGE else radius
        x, y = (rng.uniform(inside, length - inside) for length in (width, height))
        place = Place(x, y, radius, turn_of(rng, shape))
        if not overlap(place, others):
            return place
    return None


def set_free(rng: random.Random, scene: Scene, width: int, height: int) -> Scene | None:
    """The scene with the same names, moved off the grid; None if there is no room for its things."""
    things: tuple[Thing, ...] = ()
    for thing in scene.things:
        place = free_place(rng, thing.shape, tuple(t.place for t in things if t.place), width, height)
        if place is None:
            return None
        shade = shade_of(rng, thing.colour)
        things = (*things, Thing(thing.shape, thing.colour, thing.size, thing.cell, place, shade))
    return Scene(free_background(rng, scene.background, width, height), things, scene.effect)


def on_photograph(rng: random.Random, scene: Scene, held_out: bool, width: int, height: int) -> Scene | None:
    """An off-grid scene's things pasted on a photograph; None if one of them would not be visible."""
    background = Background(PHOTOGRAPH, "", "", crop=random_crop(rng, held_out, width, height))
    behind = pixels_of(background.crop, width, height)
    things = []
    for thing in scene.things:
        x, y, reach = thing.place.x, thing.place.y, thing.place.radius
        box = behind[max(int(y - reach), 0) : int(y + reach) + 1, max(int(x - reach), 0) : int(x + reach) + 1]
        shade = thing.shade or COLOURS[thing.colour]
        if math.dist([channel / 255 for channel in shade], box.mean((0, 1))) < CONTRAST:
            return None
        finished = rng.random() < FINISHED
        finish = Finish(rng.uniform(0, 0.25), rng.uniform(0, 360), rng.uniform(0.4, 1.2), rng.uniform(0, 0.5))
        things.append(replace(thing, finish=finish if finished else None))
    return replace(scene, background=background, things=tuple(things))
