"""Conditions: rows move together, nulls are named, padding travels."""

from __future__ import annotations

import pytest
import torch

from flowkit.cond import Cond


def cond() -> Cond:
    return Cond(
        {"text": torch.arange(12.0).reshape(4, 3), "label": torch.tensor([1, 2, 3, 4])},
        padding=torch.tensor([[True, True], [True, False], [True, True], [True, False]]),
        nulls={"label": 0, "text": torch.tensor([7.0, 8.0, 9.0])},
    )


def test_it_reads_as_a_mapping() -> None:
    c = cond()
    assert list(c) == ["text", "label"]
    assert len(c) == 2
    with pytest.raises(KeyError, match="no condition 'speaker'; there are: text, label"):
        c["speaker"]
    with pytest.raises(KeyError, match="there are: none"):
        Cond()["speaker"]


@pytest.mark.parametrize(
    "index",
    [torch.tensor([2, 0, 0]), torch.tensor([True, False, True, False]), slice(1, 3)],
    ids=["rows", "mask", "slice"],
)
def test_rows_move_together(index: torch.Tensor | slice) -> None:
    c = cond()
    taken = c.take(index)
    assert torch.equal(taken["text"], c["text"][index])
    assert torch.equal(taken["label"], c["label"][index])
    assert taken.padding is not None
    assert c.padding is not None
    assert torch.equal(taken.padding, c.padding[index])
    assert taken.nulls is c.nulls


def test_cat_is_the_inverse_of_take() -> None:
    c = cond()
    whole = Cond.cat([c.take(slice(0, 1)), c.take(slice(1, 4))])
    assert all(torch.equal(whole[name], c[name]) for name in c)
    assert whole.padding is not None
    assert torch.equal(whole.padding, c.padding)
    with pytest.raises(ValueError, match="cannot join"):
        Cond.cat([c, Cond({"text": c["text"]})])
    with pytest.raises(ValueError, match="cannot join"):
        Cond.cat([c, Cond(c.values)])


def test_drop_writes_the_null_into_the_marked_rows() -> None:
    c = cond()
    dropped = c.drop(torch.tensor([True, False, False, True]))
    assert dropped["label"].tolist() == [0, 2, 3, 0]
    assert dropped["text"][0].tolist() == [7.0, 8.0, 9.0]
    assert torch.equal(dropped["text"][1], c["text"][1])
    assert dropped.padding is c.padding
    only = c.drop(torch.tensor([True] * 4), ["label"])
    assert torch.equal(only["text"], c["text"])
    null = c.null()
    assert null["label"].tolist() == [0] * 4
    assert torch.equal(null["text"], torch.tensor([7.0, 8.0, 9.0]).expand(4, 3))
    assert Cond().null() == Cond()


def test_floats_fall_back_to_zero_and_integers_must_name_their_null() -> None:
    assert Cond({"text": torch.ones(2, 3)}).null()["text"].tolist() == [[0.0] * 3] * 2
    with pytest.raises(ValueError, match=r"'label' holds integers and names no null value: set nulls=\{'label'"):
        Cond({"label": torch.tensor([1])}).null()


def test_to_leaves_integers_and_masks_alone() -> None:
    c = cond().to(torch.float64)
    assert (c["text"].dtype, c["label"].dtype) == (torch.float64, torch.int64)
    assert c.padding is not None
    assert c.padding.dtype == torch.bool
    assert cond().to("cpu", torch.float16)["text"].dtype == torch.float16


def test_redrawn_conditions() -> None:
    def shift(c: Cond, t: torch.Tensor, step: int, generator: object) -> Cond:
        return Cond({"text": c["text"] + step}, redraw=c.redraw)

    still, moving = cond(), Cond({"text": torch.zeros(2, 1)}, redraw=shift)
    t = torch.zeros(2)
    assert not still.varies
    assert still.at(t, 3) is still
    assert moving.varies
    assert moving.at(t, 3)["text"].tolist() == [[3.0], [3.0]]
    assert moving.at(t, 3).varies
