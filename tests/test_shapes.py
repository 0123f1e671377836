from __future__ import annotations

import pytest
import torch

from pyflowk.shapes import check_labels, expand_context
from pyflowk.space import Ragged, check_events


def test_one_row_serves_all_and_any_other_number_is_refused() -> None:
    words = Ragged(torch.tensor([[3, 1, 0]]), torch.tensor([2]))
    many = expand_context(words, 4)
    assert many is not None and len(many) == 4 and all(many.row(i).tolist() == [3, 1] for i in range(4))
    assert expand_context(many, 4) is many and expand_context(None, 4) is None
    numbers = torch.randn(1, 2)
    assert torch.equal(expand_context(numbers, 3), numbers.repeat(3, 1))  # type: ignore[arg-type]
    assert len(expand_context(words, 0)) == 0 and expand_context(numbers, 0).shape == (0, 2)  # type: ignore
    for wrong in (many, numbers.repeat(4, 1)):
        with pytest.raises(ValueError, match=r"a context of 3 rows .* got (4 rows|\(4, 2\); .*repeat)"):
            expand_context(wrong, 3)
    with pytest.raises(TypeError, match=r"context: expected a tensor, .* got list"):
        expand_context([1], 1)  # type: ignore[type-var]


def test_what_is_no_label_or_event_is_refused() -> None:
    assert check_labels(torch.tensor([1, 2], dtype=torch.uint8)).dtype == torch.int64
    for wrong in (torch.zeros(2), torch.zeros(2, dtype=torch.bool), torch.zeros(2, 1, dtype=torch.int64)):
        with pytest.raises(TypeError, match=r"expected class labels \(B,\) of an integer dtype"):
            check_labels(wrong)
    check_events(torch.zeros(0, 3), (3,))
    for wrong, error in ((torch.tensor(1.0), ValueError), (torch.zeros(3), ValueError), ([1.0], TypeError)):
        with pytest.raises(error, match="expected z"):
            check_events(wrong, (3,), "z")
