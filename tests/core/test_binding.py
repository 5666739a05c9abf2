"""The binding loss: the labels of nouns in a text."""

import random

import torch

from kontext_core.embedded.text_encoder import TextEncoder, Vocabulary
from training import recipe
from training.binding import CLASSES, NOUNS, VALUES, Binding, noun_labels, texts
from training.instructions import Edit, all_words
from training.world import Background, Scene, Thing

VOCABULARY = Vocabulary(all_words())
SCENE = Scene(
    Background("striped", "red", "green"), (Thing("ring", "red", "small", "top left"), Thing("B", "blue", "large"))
)


def test_every_noun_has_the_labels_of_its_own_thing():
    text = "red and green striped with a small red ring in the top left and a large blue letter B in the centre"
    ids, places, truth = noun_labels(VOCABULARY, [Edit("text to image", (), SCENE, text, 0)])
    words = [VOCABULARY.words[ids[row, place] - 2] for row, place in places.tolist()]
    assert words == ["ring", "b"]
    told = [[values[label] for values, label in zip(VALUES.values(), labels, strict=True)] for labels in truth.tolist()]
    assert told == [["red", "small", "top left"], ["blue", "large", "centre"]]


def test_of_an_addition_only_the_new_thing_is_told():
    _, places, truth = noun_labels(VOCABULARY, [Edit("add", (SCENE,), SCENE, "add a large blue letter B", 1)])
    assert len(places) == 1 and truth[0].tolist()[:2] == [list(VALUES["colour"]).index("blue"), 2]


def test_the_texts_of_training_name_every_thing_once():
    edits = [edit for seed in range(60) for edit in texts(random.Random(seed))]
    assert len(edits) == 60 * recipe.BINDING_TEXTS
    ids, places, _ = noun_labels(VOCABULARY, edits)  # an error where a noun has no thing
    words = {VOCABULARY.words[ids[row, place] - 2] for row, place in places.tolist()}
    assert words == NOUNS


def test_the_loss_begins_at_knowing_nothing_and_falls():
    torch.manual_seed(0)
    encoder, binding = TextEncoder(len(VOCABULARY)), Binding()
    edits = texts(random.Random(0))
    adam = torch.optim.Adam([*encoder.parameters(), *binding.parameters()], 3e-3)
    losses = []
    for _ in range(30):
        loss = binding.loss(encoder, *noun_labels(VOCABULARY, edits))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert abs(losses[0] - torch.tensor(CLASSES).float().log().mean().item()) < 0.4
    assert losses[-1] < 0.5 * losses[0]
