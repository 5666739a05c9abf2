"""What a user sees: the templates, the run of one, the nodes' reports, choices, help pages and Korean names."""

import json

import pytest
from PIL import Image

from batch import ROOT, graphs

WORKFLOWS = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
REPORTS = {  # node: a part of what it says after the run of A first edit
    "KontextLoader": "embedded Kontext",
    "KontextReference": "128x128 px",
    "KontextContext": "64 tokens",
    "KontextTarget": "128x128 px",
    "KontextSampler": "28 steps",
}
CHOICES = [  # node, widget, choice, the inputs that it brings
    ("KontextLoader", "source", "embedded", []),
    ("KontextLoader", "source", "files", ["diffusion_model", "clip_l", "t5xxl", "vae", "weight_dtype", "text_length"]),
    ("KontextReference", "size", "nearest trained size", []),
    ("KontextReference", "size", "keep ratio", ["megapixels"]),
    ("KontextReference", "size", "as is", []),
    ("KontextTarget", "size", "ratio", ["ratio", "megapixels"]),
    ("KontextTarget", "size", "from reference", ["reference"]),
    ("KontextTarget", "size", "width x height", ["width", "height"]),
    ("KontextHosted", "provider", "Together", ["model", "steps", "guidance"]),
    ("KontextHosted", "provider", "Hugging Face", ["model", "steps", "guidance", "bill_to"]),
    ("KontextHosted", "ratio", "16:9", []),
    ("KontextHosted", "ratio", "free", ["shape"]),
    ("KontextSchedule", "shift", "from size", []),
    ("KontextSchedule", "shift", "custom", ["mu"]),
    ("KontextNegative", "method", "nag", ["scale", "tau", "alpha", "start", "end"]),
    ("KontextNegative", "method", "cfg", ["same_references"]),
    ("KontextInstruction", "kind", "local", ["action", "subject", "result", "keep"]),
    ("KontextInstruction", "kind", "text", ["old", "new", "keep"]),
]
SEARCHED = {  # what an artist types into the node search, and the nodes and blueprints that it must list
    "flux edit": {"Kontext Context"},
    "edit": {"Kontext Edit", "Kontext Sampler"},
    "character": {"Kontext Reference"},
    "style": {"Kontext Reference"},
    "outpaint": {"Kontext Target"},
    "before after": {"Kontext Change Mask", "Kontext Session"},
    "upscale reference": {"Kontext Reference"},
    "inpaint": {"Kontext Crop Region"},
}
KOREAN = json.loads((ROOT / "locales" / "ko" / "nodeDefs.json").read_text(encoding="utf-8"))
PATIENCE = 900  # s; a run takes seconds, but not on a machine that does much else
RUN = "document.querySelector('[data-testid=queue-button]')"


def node(kind):
    return f"app.graph.nodes.find((node) => node.type === '{kind}')"


def widget(kind, name):
    return f"{node(kind)}.widgets.find((widget) => widget.name === '{name}')"


def test_edit_from_the_template_browser(page, server):
    pictures = server.base_directory / "output"
    saved_before = set(pictures.glob("kontext_edit_0*.png"))  # by other tests on the same server
    card = "document.querySelector('[data-testid=\"template-workflow-A first edit\"]')"
    picture = "fetch('/api/workflow_templates/kontext-nodes/A first edit.jpg').then((answer) => answer.blob())"
    assert page.evaluate(f"{picture}.then(createImageBitmap).then((bitmap) => bitmap.width)") == 512  # of the card
    page.click("document.querySelector('.templates-tab-button')")
    page.click("[...document.querySelectorAll('nav span')].find((name) => name.innerText === 'FLUX.1 Kontext')")
    cards = "[...document.querySelectorAll('[data-testid^=template-workflow-]')].map((card) => card.dataset.testid)"
    shown = [name.removeprefix("template-workflow-") for name in page.wait_for(f"({cards}).length && {cards}")]
    assert shown[0] == "A first edit"
    assert shown == sorted(WORKFLOWS)[: len(shown)]
    page.click(card)
    page.wait_for(f"!!{node('KontextSampler')}")
    page.click(RUN)
    assert page.wait_for(f"{node('SaveImage')}.imgs?.[0]?.naturalWidth", seconds=PATIENCE) == 128
    (file,) = set(pictures.glob("kontext_edit_0*.png")) - saved_before
    with Image.open(file) as picture:
        assert picture.size == (128, 128)
    for kind, text in REPORTS.items():
        assert text in page.evaluate(f"{widget(kind, 'report')}.value")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_loaded_template_is_what_was_saved(page, load, name):
    """The browser's prompt equals the file's: no node, link or widget value is lost."""
    load(name)
    missing = page.evaluate("app.graph.nodes.filter((node) => !LiteGraph.registered_node_types[node.type])")
    prompt = page.evaluate("app.graphToPrompt().then((prompt) => prompt.output)")
    expected = graphs.to_prompt(json.loads(WORKFLOWS[name].read_text(encoding="utf-8")))
    for content in expected.values():
        content["inputs"].pop("upload", None)  # LoadImage's button, which has a value but is not sent
    assert missing == []
    assert {key: {**content, "_meta": {}} for key, content in expected.items()} == {
        key: {**content, "_meta": {}} for key, content in prompt.items()
    }


def test_the_template_for_the_real_files_shows_a_picture(page, load):
    load("Real model with your files")
    assert page.wait_for(f"{node('LoadImage')}.imgs?.[0]?.naturalWidth") > 0


@pytest.mark.parametrize(("kind", "name", "choice", "brought"), CHOICES, ids=lambda value: str(value))
def test_a_choice_on_a_new_node_brings_its_inputs(page, kind, name, choice, brought):
    names = page.evaluate(
        f"""(() => {{
            app.graph.clear();
            app.graph.add(LiteGraph.createNode('{kind}'));
            {widget(kind, name)}.value = '{choice}';
            return {node(kind)}.inputs.map((input) => input.name);
        }})()"""
    )
    assert [input for input in names if input.startswith(f"{name}.")] == [f"{name}.{input}" for input in brought]


def test_a_socket_for_the_next_reference_appears(page):
    sockets = page.evaluate(
        """(() => {
            app.graph.clear();
            const [context, target] = ['KontextContext', 'KontextTarget'].map((kind) => LiteGraph.createNode(kind));
            app.graph.add(context);
            app.graph.add(target);
            const names = () => context.inputs.map((input) => input.name).filter((name) => name.includes('.'));
            const before = names();
            target.connect(0, context, context.inputs.findIndex((input) => input.name === before.at(-1)));
            return [before, names()];
        })()"""
    )
    before, after = ([socket.removeprefix("references.reference") for socket in names] for names in sockets)
    assert (before, after) == (["0", "1"], ["0", "1", "2"])


def test_the_node_search_finds_ours(page):
    """In the dialog that a double click on the canvas opens."""
    toggle = "app.extensionManager.command.execute('Workspace.SearchBox.Toggle')"
    field = "document.querySelector('input[placeholder=\"Add a node...\"]')"
    listed = "[...document.querySelectorAll('[data-testid=result-item]')].map((item) => item.innerText.split('\\n')[0])"
    page.evaluate(toggle)
    page.wait_for(f"!!{field}")
    for words, names in SEARCHED.items():
        page.evaluate(f"{field}.value = '{words}', {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")
        shown = page.wait_for(f"{json.dumps(sorted(names))}.every((name) => {listed}.includes(name)) && {listed}")
        assert names <= set(shown)
    page.evaluate(toggle)


def test_the_help_panel_shows_our_page(page, load):
    load("A first edit")
    page.evaluate(f"app.canvas.selectNode({node('KontextSampler')})")
    page.click("document.querySelector('[data-testid=info-button]')")
    text = page.wait_for("document.querySelector('.node-help-content')?.innerText")
    assert "Earlier guidance wins." in text


def test_our_nodes_are_named_in_korean(page, server, korean, load):
    """Also the inputs that a choice brings, and the outputs."""
    page.open(server.url)
    page.wait_for_workflow(PATIENCE)
    load("Text to image")
    page.wait_for(f"!!{node('KontextSampler')}", seconds=PATIENCE)
    kinds = page.evaluate(
        """Object.fromEntries(app.graph.nodes.map((node) => [node.type, {
            title: node.title,
            inputs: Object.fromEntries(node.inputs.map((input) => [input.name, input.localized_name])),
            outputs: node.outputs.map((output) => output.localized_name),
        }]))"""
    )
    for kind in ("KontextLoader", "KontextTarget", "KontextSampler"):
        words = KOREAN[kind]
        assert kinds[kind]["title"] == words["display_name"]
        assert kinds[kind]["outputs"] == [output["name"] for output in words["outputs"].values()]
        for name, shown in kinds[kind]["inputs"].items():
            assert shown == words["inputs"][name.replace(".", "_")]["name"]
