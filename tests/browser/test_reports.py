"""The nodes' reports: of the last run, also inside subgraphs and after a change of tabs."""

import pytest
from canvas import OUTER, Canvas, inner, node

SAMPLER = node("KontextSampler")


@pytest.fixture
def canvas(page):
    return Canvas(page)


@pytest.fixture
def show_tab(page):
    """`show_tab("Previous")`. The last tab is shown again afterwards: a reload opens no other if it has no changes."""

    def execute(which):
        page.evaluate(f"app.extensionManager.command.execute('Workspace.{which}OpenedWorkflow')")

    yield execute
    execute("Next")


def test_a_report_goes_when_its_node_is_bypassed_and_comes_back(canvas, load):
    load("Edit several times faster")
    canvas.set(SAMPLER, "steps", 1)
    accelerate = node("KontextAccelerate")
    canvas.run()
    report = canvas.text(accelerate, "report")
    assert report
    canvas.bypass(accelerate)
    canvas.run()
    assert canvas.text(accelerate, "report") is None
    assert canvas.text(SAMPLER, "report")
    canvas.bypass(accelerate, False)
    canvas.run()
    canvas.page.wait_for(f"{accelerate}.widgets.some(({{ name }}) => name === 'report')")
    assert canvas.text(accelerate, "report") == report


def test_reports_inside_a_blueprint_survive_a_change_of_tabs(canvas, load, show_tab):
    canvas.open_blueprint("Kontext Edit")
    canvas.run()
    kinds = ("KontextLoader", "KontextFitFrame", "KontextSampler", "KontextPreserve")
    reports = [canvas.text(inner(kind), "report") for kind in kinds]
    assert all(reports)
    load("A first edit")
    assert canvas.page.evaluate(f"!{OUTER}")
    show_tab("Previous")
    canvas.page.wait_for(f"!!{OUTER}")
    canvas.page.wait_for(f"{inner('KontextSampler')}.widgets.some(({{ name }}) => name === 'report')")
    assert [canvas.text(inner(kind), "report") for kind in kinds] == reports
