# SPDX-License-Identifier: BSD-2-Clause
"""Accesses as a pandas DataFrame.

numpy's integers have no gap, so what pandas makes of a column with one by itself is float64, which holds 53 bits of an
address's 64. Its nullable types hold all.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pyarrow as pa

from ksym.exports.columns import Known, all_numbers
from ksym.recording.accesses import Accesses


def frame(pd: ModuleType, table: Any, accesses: Accesses) -> Any:
    """A ``pandas.DataFrame``.

    Args:
        pd: pandas.
        table: The accesses as an Arrow table (`exports.arrow.table`).
        accesses: The same accesses.
    """
    types = {
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.uint64(): pd.UInt64Dtype(),
        # pandas' own Float64 takes NaN for a gap.
        pa.float64(): pd.ArrowDtype(pa.float64()),
    }
    columns = {}
    for which in ("old", "new"):
        column = all_numbers(accesses, which)
        if not isinstance(column, Known):
            columns[which] = column
    own = [name for name in table.column_names if name.endswith("_real")]
    made = table.drop_columns(own).to_pandas(types_mapper=types.get)
    for which, column in columns.items():
        made[which] = pd.Series(column, dtype=object)
    return made
