"""Spending in a batch: nothing without a limit, and never more than the limit."""

import pytest

from batch import Failure, graphs
from batch.plan import Task
from batch.spend import Budget, cost


def task(provider="fal", model="pro", **inputs):
    hosted = graphs.node("KontextHosted", **{"provider": provider, "provider.model": model, "dry_run": False} | inputs)
    return Task(1, "row 1", {"1": hosted}, {}, ("1", 0), "a.png", None, 1, {}, {"settings": {}})


LOCAL = Task(1, "row 1", {"1": graphs.node("KontextSampler")}, {}, ("1", 0), "a.png", None, 1, {}, {"settings": {}})


def test_a_graph_without_hosted_nodes_needs_no_limit():
    assert Budget(None).check([LOCAL]) == 0
    assert Budget(None).reserve(LOCAL) is None


def test_nothing_is_sent_without_a_limit():
    with pytest.raises(Failure, match="2 rows cost about .*Nothing was sent; --spend LIMIT"):
        Budget(None).check([task(), task()])


def test_a_batch_stops_before_the_row_that_would_go_beyond():
    price = cost(task().prompt)
    assert price > 0
    budget = Budget(2.5 * price)
    assert budget.check([task()] * 4) == pytest.approx(4 * price)
    assert [budget.reserve(task()) is None for _ in range(3)] == [True, True, False]
    assert "of --spend" in budget.reserve(task())
    assert budget.spent == pytest.approx(2 * price)


def test_what_was_paid_takes_the_place_of_the_list_price():
    budget = Budget(1.0)
    budget.reserve(task())
    budget.settle(task(), "seed 1: 512x512 px\ntotal $0.08")
    assert budget.spent == pytest.approx(0.08)
    budget.reserve(task())
    budget.settle(task(), "of an earlier run, not sent again")
    assert budget.spent == pytest.approx(0.08)


def test_several_pictures_cost_several_prices_and_a_dry_run_nothing():
    assert cost(task(pictures=3).prompt) == pytest.approx(3 * cost(task().prompt))
    assert cost(task(dry_run=True).prompt) == 0


def test_only_a_dry_run_that_is_set_in_the_node_costs_nothing():
    """A connected one may be false when the row runs."""
    linked = task(dry_run=["2", 0])
    assert cost(linked.prompt) == cost(task().prompt) > 0
    with pytest.raises(Failure, match="Nothing was sent; --spend LIMIT"):
        Budget(None).check([linked])


@pytest.mark.parametrize("name", ["provider", "provider.model", "pictures"])
def test_a_price_that_is_not_known_before_the_start_is_refused(name):
    prompt = task(**{name: ["2", 0]}).prompt | {"2": graphs.node("PrimitiveInt", value=100)}
    with pytest.raises(Failure, match=f"KontextHosted: {name} is connected to PrimitiveInt.*Disconnect it") as failure:
        cost(prompt)
    assert failure.value.code == 2


@pytest.mark.parametrize(("title", "model"), [("nobody", "pro"), ("fal", "nothing")])
def test_a_model_that_no_provider_has_is_refused(title, model):
    with pytest.raises(Failure, match=f"no model '{model}' of a provider '{title}'"):
        cost(task(title, model).prompt)


def test_a_limit_is_not_promised_where_no_price_is_known():
    from kontext_core.hosted import PROVIDERS

    unknown = [(title, m) for title, p in PROVIDERS.items() for m, model in p.models.items() if model.price is None]
    for title, model in unknown:
        with pytest.raises(Failure, match="no limit can be kept"):
            cost(task(title, model).prompt)
