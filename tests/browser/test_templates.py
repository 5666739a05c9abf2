"""Templates and blueprints as they open, after a run and after a choice, in both of the frontend's renderers."""

import pytest

from tools import ROOT, blueprints
from tools.thumbnails import NOT_RUN

TEMPLATES = sorted({path.stem for path in (ROOT / "workflows").glob("*.json")} - set(NOT_RUN))
PATIENCE = 900  # s
READABLE = 8 / 14  # zoom; below it the canvas draws boxes in place of letters
SCREEN = {"width": 1440, "height": 757, "deviceScaleFactor": 1, "mobile": False}  # what a browser leaves of 1440x900
BOXES = """app.graph.nodes.map((node) => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const [width, height] = element
        ? [element.offsetWidth, element.offsetHeight]
        : [node.size[0], node.size[1] + 30];
    return [`${node.type} ${node.id}`, node.pos[0], node.pos[1] - 30, width, height];
})"""
CUT = """app.graph.nodes.flatMap((node) => (node.widgets ?? [])
    .filter((widget) => ['report', 'notice'].includes(widget.name) && widget.element.clientHeight)
    .filter(({element}) => element.scrollHeight > element.clientHeight + 2 && element.clientHeight < 160)
    .map(() => node.type))"""
SETTLED = "new Promise((done) => setTimeout(done, 700))"
CHOOSE_FILES = """(() => {
    const loader = app.graph.nodes.find((node) => node.type === 'KontextLoader');
    loader.widgets.find((widget) => widget.name === 'source').value = 'files';
    loader.onExecuted({text: Array(12).fill('a line of a long report')});
    return loader.inputs.length;
})()"""
APPS = {"Schedule and solver": ["picture", "text", "noise_seed"], "Turn after turn": ["picture", "value", "seed"]}

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
    page.evaluate(SETTLED)


def overlaps(boxes):
    for place, (one, left, top, width, height) in enumerate(boxes):
        for other, x, y, across, down in boxes[place + 1 :]:
            if left < x + across and x < left + width and top < y + down and y < top + height:
                yield one, other


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "workflows").glob("*.json")))
def test_a_template_opens_at_a_readable_size(drawn, load, name):
    load(name)
    assert drawn.wait_for("app.canvas.ds.scale") >= READABLE


@pytest.mark.parametrize("name", TEMPLATES)
def test_after_a_run_nothing_overlaps_and_no_report_is_cut(drawn, load, name):
    """If this fails: python3 manage.py exec -- python -m tools.arrange NAME"""
    load(name)
    run(drawn)
    assert list(overlaps(drawn.evaluate(BOXES))) == []
    assert drawn.evaluate(CUT) == []


def test_a_loader_of_files_covers_nothing(drawn, load):
    """With all its inputs, and a report of the greatest height. `tests/core` says where the loader is elsewhere."""
    load("A first edit")
    assert drawn.evaluate(CHOOSE_FILES) == 7
    drawn.evaluate(SETTLED)
    assert list(overlaps(drawn.evaluate(BOXES))) == []


@pytest.mark.parametrize(("name", "asked"), APPS.items(), ids=APPS)
def test_app_mode_asks_for_picture_text_and_seed(page, load, name, asked):
    """The others have the same two or three inputs: `tests/core`."""
    toggle = "app.extensionManager.command.execute('Comfy.ToggleLinear')"
    labels = "[...document.querySelectorAll('[data-testid=builder-widget-label]')].map((label) => label.innerText)"
    load(name)
    page.evaluate(toggle)
    assert page.wait_for(f"{labels}.length && {labels}") == asked
    page.evaluate(toggle)


@pytest.fixture
def graphs_only(page, server):
    """The page, newly loaded, of a server whose route for templates has no pictures, as that of later ones."""
    page.call("Network.enable")
    page.call("Network.setBlockedURLs", urls=["*/workflow_templates/*.jpg"])
    page.open(server.url)
    page.wait_for_workflow(PATIENCE)
    yield page
    page.call("Network.disable")


def test_the_template_browser_shows_pictures_that_the_host_does_not_serve(graphs_only):
    page, card = graphs_only, "document.querySelector('[data-testid=\"template-workflow-A first edit\"]')"
    page.click("document.querySelector('.templates-tab-button')")
    page.click("[...document.querySelectorAll('nav span')].find((name) => name.innerText === 'FLUX.1 Kontext')")
    picture = f"[...{card}.querySelectorAll('img')].find((image) => image.naturalWidth)"
    source, width = page.wait_for(f"(({{src, naturalWidth}}) => [src, naturalWidth])({picture})")
    assert source.startswith("blob:") and width == 512  # not the frontend's substitute
    page.click(card)
    page.wait_for("app.graph.nodes.some((node) => node.type === 'KontextSampler')")


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
