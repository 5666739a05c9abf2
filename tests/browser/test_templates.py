"""Templates and blueprints after a run, in both of the frontend's renderers."""

import pytest

from tools import ROOT, blueprints
from tools.thumbnails import NOT_RUN

TEMPLATES = sorted({path.stem for path in (ROOT / "workflows").glob("*.json")} - set(NOT_RUN))
PATIENCE = 900  # s
READABLE = 8 / 14  # zoom; below it the canvas draws boxes in place of letters
SCREEN = {"width": 1440, "height": 757, "deviceScaleFactor": 1, "mobile": False}  # what a browser leaves of 1440x900
WIDE = {"Edit and keep the rest", "Reference control"}  # more nodes than such a screen can show
BOXES = """app.graph.nodes.map((node) => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const [width, height] = element
        ? [element.offsetWidth, element.offsetHeight]
        : [node.size[0], node.size[1] + 30];
    return [`${node.type} ${node.id}`, node.pos[0], node.pos[1] - 30, width, height];
})"""
CUT = """app.graph.nodes.flatMap((node) => (node.widgets ?? [])
    .filter((widget) => widget.name === 'report' && widget.element.clientHeight)
    .filter(({element}) => element.scrollHeight > element.clientHeight + 2 && element.clientHeight < 160)
    .map(() => node.type))"""

LINKED = """((graph) => graph.nodes.flatMap((node) => node.inputs.map((input) => {
    const link = graph.links.get(input.link);
    return `${graph.getNodeById(link?.origin_id)?.type} ${link?.origin_slot} ${node.type} ${input.name}`;
})).filter((link) => !link.startsWith('undefined')))"""


@pytest.fixture(params=[False, True], ids=["canvas", "nodes 2.0"])
def drawn(request, page):
    page.evaluate(f"app.extensionManager.setting.set('Comfy.VueNodes.Enabled', {str(request.param).lower()})")
    page.call("Emulation.setDeviceMetricsOverride", **SCREEN)
    yield page
    page.call("Emulation.clearDeviceMetricsOverride")
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")


def run(page):
    page.evaluate(
        """(() => {
            window.ended = 0;
            app.api.addEventListener('execution_success', () => window.ended++, {once: true});
            return app.queuePrompt(0).then(() => true);
        })()"""
    )
    page.wait_for("window.ended", seconds=PATIENCE)
    page.evaluate("new Promise((done) => setTimeout(done, 700))")


def overlaps(boxes):
    for place, (one, left, top, width, height) in enumerate(boxes):
        for other, x, y, across, down in boxes[place + 1 :]:
            if left < x + across and x < left + width and top < y + down and y < top + height:
                yield one, other


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "workflows").glob("*.json")))
def test_a_template_opens_at_a_readable_size(drawn, load, name):
    load(name)
    assert (drawn.wait_for("app.canvas.ds.scale") >= READABLE) == (name not in WIDE)


@pytest.mark.parametrize("name", TEMPLATES)
def test_after_a_run_nothing_overlaps_and_no_report_is_cut(drawn, load, name):
    """If this fails: python3 manage.py exec -- python -m tools.arrange NAME"""
    load(name)
    run(drawn)
    assert list(overlaps(drawn.evaluate(BOXES))) == []
    assert drawn.evaluate(CUT) == []


@pytest.fixture
def library(page):
    """The node library in the sidebar, and an empty graph."""
    toggle = "app.extensionManager.command.execute('Workspace.ToggleSidebarTab.node-library')"
    page.evaluate(f"app.graph.clear(), {toggle}")
    yield page
    page.evaluate(toggle)


@pytest.mark.parametrize("blueprint", blueprints.ALL, ids=lambda blueprint: blueprint.name)
def test_a_blueprint_of_the_node_library_runs_and_can_be_unpacked(library, blueprint):
    page = library
    field = "document.querySelector('.sidebar-content-container input[placeholder^=Search]')"
    items = "[...document.querySelectorAll('[role=treeitem]')]"
    page.wait_for(f"!!{field}")
    page.evaluate(f"{field}.value = '{blueprint.name}', {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    page.click(f"{items}.find((item) => item.innerText.trim() === '{blueprint.name}')")
    page.click("document.querySelector('#graph-canvas')")
    assert page.wait_for("app.graph.nodes.map((node) => node.title)") == [blueprint.name]
    page.evaluate(
        """(() => {
            const node = app.graph.nodes[0];
            node.widgets.find((widget) => widget.name === 'steps').value = 1;
            const save = LiteGraph.createNode('SaveImage');
            app.graph.add(save);
            node.connect(0, save, 0);
            for (const [slot, input] of node.inputs.entries()) {
                if (!['IMAGE', 'MASK'].includes(input.type)) continue;
                const example = LiteGraph.createNode('KontextExample');
                app.graph.add(example);
                example.widgets[0].value = 'scene';
                example.connect(input.type === 'IMAGE' ? 0 : 1, node, slot);
            }
        })()"""
    )
    run(page)
    assert page.wait_for("app.graph.nodes.find((node) => node.type === 'SaveImage').imgs?.length") == 1
    inside = page.evaluate(f"{LINKED}(app.graph.nodes[0].subgraph)")
    page.evaluate("app.graph.unpackSubgraph(app.graph.nodes[0])")
    assert set(inside) <= set(page.evaluate(f"{LINKED}(app.graph)"))
