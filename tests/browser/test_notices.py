"""A notice is shown on the node it concerns while it is true, and takes no space from other widgets."""

import pytest
from canvas import BELOW, OUTER, Canvas, inner, node

TEXT, SAMPLER = node("CLIPTextEncode"), node("KontextSampler")
TEXT_BOX = """(() => {
    const [{ element }] = %(node)s.widgets;
    const drawn = document.querySelector(`[data-node-id="${%(node)s.id}"] textarea:not([data-kontext])`) ?? element;
    return new Promise((done) => setTimeout(() => done(drawn.offsetHeight), 500));
})()"""

IS_BELOW = f"""(() => {{
    const {{ left, top }} = {BELOW}.getBoundingClientRect();
    const {{ pos, size }} = {OUTER};
    const [x, y] = app.canvas.convertOffsetToCanvas([pos[0], pos[1] + size[1]]);
    const frame = app.canvas.canvas.getBoundingClientRect();
    return Math.abs(left - frame.left - x) < 1 && top - frame.top > y && top - frame.top < y + 20;
}})()"""


@pytest.fixture(params=[False, True], ids=["canvas", "nodes 2.0"])
def canvas(request, page):
    """In each of the frontend's two renderers."""
    page.evaluate(f"app.extensionManager.setting.set('Comfy.VueNodes.Enabled', {str(request.param).lower()})")
    yield Canvas(page)
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")


@pytest.fixture
def edit(canvas, load):
    """The template A first edit with one step."""
    load("A first edit")
    canvas.set(SAMPLER, "steps", 1)
    return canvas


@pytest.fixture
def word(request):
    """One that the model does not know, and that is new to the server's cache."""
    return f"glitter{abs(hash(request.node.nodeid))}"


def test_unknown_words_are_named_until_they_are_corrected(edit, word):
    edit.set(TEXT, "text", f"make the circle {word}")
    edit.run()
    assert word in edit.notice(TEXT)
    edit.run()
    assert word in edit.notice(TEXT), "the text is the same, and the node did not run again"
    edit.set(TEXT, "text", "make the circle blue")
    assert edit.notice(TEXT) is None
    edit.run()
    assert edit.notice(TEXT) is None


def test_a_notice_takes_no_height_from_the_text_box(edit, word):
    box = TEXT_BOX % {"node": TEXT}
    tall, before = edit.page.evaluate(f"{TEXT}.size[1]"), edit.page.evaluate(box)
    assert before > 0
    edit.set(TEXT, "text", f"make the circle {word}")
    edit.run()
    assert word in edit.notice(TEXT)
    assert edit.page.evaluate(box) >= before
    edit.set(TEXT, "text", "make the circle blue")
    assert abs(edit.page.evaluate(box) - before) < 20
    assert abs(edit.page.evaluate(f"{TEXT}.size[1]") - tall) < 20


def test_a_notice_goes_when_its_node_is_bypassed(edit, word):
    edit.set(TEXT, "text", f"make the circle {word}")
    edit.run()
    assert word in edit.notice(TEXT)
    edit.bypass(TEXT)
    edit.page.evaluate("app.api.dispatchCustomEvent('execution_start', {prompt_id: 'any'})")
    assert edit.page.wait_for(f"!{TEXT}.widgets.some(({{ name }}) => name === 'notice')")


def test_an_error_of_ours_stands_on_its_node_until_it_runs_again(edit):
    edit.set(SAMPLER, "cfg", 2)
    edit.run()
    assert "negative is not connected" in edit.notice(SAMPLER)
    edit.page.evaluate(f"{SAMPLER}.widgets.find(({{ name }}) => name === 'seed').callback(5)")
    assert "negative is not connected" in edit.notice(SAMPLER)  # the frontend changes it after each run
    edit.set(SAMPLER, "cfg", 1)
    assert edit.notice(SAMPLER) is None
    edit.run()
    assert edit.notice(SAMPLER) is None


def test_a_notice_goes_when_a_connection_changes(edit):
    edit.set(SAMPLER, "cfg", 2)
    edit.run()
    assert "negative is not connected" in edit.notice(SAMPLER)
    edit.page.evaluate(f"{TEXT}.connect(0, {SAMPLER}, 'negative')")
    assert edit.notice(SAMPLER) is None


def test_an_error_of_ours_stands_on_a_node_of_the_host(edit):
    """Kontext Reference Control of a reference that is not there is noticed by the sampler, here the host's."""
    edit.page.evaluate(
        f"""(() => {{
            const [control, sampler] = ['KontextReferenceControl', 'KSampler'].map((kind) => {{
                const node = LiteGraph.createNode(kind);
                app.graph.add(node);
                return node;
            }});
            {node("KontextLoader")}.connect(0, sampler, 'model');
            {node("KontextContext")}.connect(0, control, 'conditioning');
            {node("KontextContext")}.connect(0, sampler, 'negative');
            {node("KontextTarget")}.connect(0, sampler, 'latent_image');
            control.connect(0, sampler, 'positive');
            sampler.connect(0, {node("VAEDecode")}, 'samples');
        }})()"""
    )
    edit.set(node("KSampler"), "steps", 1)
    edit.set(node("KontextReferenceControl"), "reference", 2)
    edit.set(node("KontextReferenceControl"), "strength", 0.5)
    edit.run()
    assert "names reference 2" in edit.notice(node("KSampler"))


def test_a_blueprint_shows_the_notices_of_the_nodes_in_it(canvas, word):
    canvas.open_blueprint("Kontext Edit")
    canvas.set(OUTER, "instruction", f"make the circle {word}")
    canvas.run()
    assert word in canvas.notice(OUTER)
    assert word in canvas.notice(inner("CLIPTextEncode"))
    canvas.run()
    assert word in canvas.notice(OUTER), "only the seed has changed"
    canvas.page.evaluate(f"{OUTER}.pos = [70, 90], app.canvas.ds.offset[0] -= 40")
    canvas.page.wait_for(IS_BELOW)
    canvas.set(OUTER, "instruction", "make the circle blue")
    assert canvas.notice(OUTER) is canvas.notice(inner("CLIPTextEncode")) is None
    canvas.run()
    assert canvas.notice(OUTER) is None


def test_a_blueprint_shows_the_errors_of_the_nodes_in_it(canvas):
    canvas.open_blueprint("Kontext Edit")
    canvas.page.evaluate(
        f"""(() => {{
            const small = LiteGraph.createNode('EmptyImage');
            app.graph.add(small);
            small.widgets[0].value = small.widgets[1].value = 16;
            small.connect(0, {OUTER}, 0);
        }})()"""
    )
    canvas.run()
    assert "16x16 px" in canvas.notice(OUTER)
    assert canvas.notice(inner("KontextFitFrame")) == canvas.notice(OUTER)
    canvas.page.evaluate(f"{node('KontextExample')}.connect(0, {OUTER}, 0)")
    assert canvas.notice(OUTER) is canvas.notice(inner("KontextFitFrame")) is None
