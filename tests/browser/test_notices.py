"""A notice is shown on the node it concerns while it is true, and takes no space from other widgets."""

import pytest

PATIENCE = 900  # s
RUN = "document.querySelector('[data-testid=queue-button]')"


def node(kind):
    return f"app.graph.nodes.find((node) => node.type === '{kind}')"


def widget(kind, name):
    return f"{node(kind)}.widgets.find((widget) => widget.name === '{name}')"


@pytest.fixture(params=[False, True], ids=["canvas", "nodes 2.0"])
def steps(request, page, load):
    """The template A first edit with one step, in each of the frontend's two renderers."""
    page.evaluate(f"app.extensionManager.setting.set('Comfy.VueNodes.Enabled', {str(request.param).lower()})")
    load("A first edit")
    page.evaluate(f"{widget('KontextSampler', 'steps')}.value = 1")
    yield Steps(page, "glittery" if request.param else "sparkly")  # each is new to the server's cache
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")


class Steps:
    def __init__(self, page, word):
        self.page, self.word = page, word
        page.evaluate(
            """(() => {
                window.ended = 0;
                for (const ending of ['execution_success', 'execution_error'])
                    app.api.addEventListener(ending, () => window.ended++);
            })()"""
        )

    def run(self):
        ended = self.page.evaluate("window.ended")
        self.page.click(RUN)
        self.page.wait_for(f"window.ended > {ended}", seconds=PATIENCE)

    def type(self, text):
        self.page.evaluate(f"{widget('CLIPTextEncode', 'text')}.value = '{text}'")

    def notice(self, kind):
        return self.page.evaluate(f"{widget(kind, 'notice')}?.value")

    def height(self, kind):
        return self.page.evaluate(f"{node(kind)}.size[1]")


def test_unknown_words_are_named_until_they_are_corrected(steps):
    before = steps.height("CLIPTextEncode")
    steps.type(f"make the circle {steps.word}")
    steps.run()
    assert steps.word in steps.notice("CLIPTextEncode")
    assert steps.height("CLIPTextEncode") > before  # the text box keeps its own
    steps.run()
    assert steps.word in steps.notice("CLIPTextEncode"), "the text is the same, and the node did not run again"
    steps.type("make the circle blue")
    assert steps.notice("CLIPTextEncode") is None
    assert steps.height("CLIPTextEncode") < before + 20
    steps.run()
    assert steps.notice("CLIPTextEncode") is None


def test_a_notice_goes_when_its_node_is_bypassed(steps):
    steps.type(f"make the circle {steps.word}")
    steps.run()
    steps.page.evaluate(f"{node('CLIPTextEncode')}.mode = 4")
    steps.page.evaluate("app.api.dispatchCustomEvent('execution_start', {prompt_id: 'any'})")
    assert steps.notice("CLIPTextEncode") is None


def test_an_error_of_ours_stands_on_its_node_until_it_runs_again(steps):
    steps.page.evaluate(f"{widget('KontextSampler', 'cfg')}.value = 2")
    steps.run()
    assert "negative is not connected" in steps.notice("KontextSampler")
    steps.page.evaluate(f"((seed) => seed.callback(seed.value + 1))({widget('KontextSampler', 'seed')})")
    assert "negative is not connected" in steps.notice("KontextSampler")  # the frontend changes it after each run
    steps.page.evaluate(f"((cfg) => {{ cfg.value = 1; cfg.callback(1); }})({widget('KontextSampler', 'cfg')})")
    assert steps.notice("KontextSampler") is None
    steps.run()
    assert steps.notice("KontextSampler") is None
