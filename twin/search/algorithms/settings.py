"""Every engine setting of what would be chosen: they cost the same, so the best of them is what to run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from twin.search.front import Floats, Scored, nondominated, relative
from twin.search.search_space import Ints, SearchSpace

ABOUT_AS_CHEAP = 1.05
"""The recommended option may cost this much more than the cheapest, if it is faster (:mod:`twin.plan.choice`)."""


class Settings:
    """Asks for all engine settings of the fleet (kind of replica and number of them) that would be recommended, so that ties
    are known to be ties; then for all token budgets of every fleet on the front; then for all settings of what is best in
    one objective. Stops when that is all there.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._told: dict[int, Scored] = {}
        self._cost = dict(zip(space.rows.tolist(), space.estimates[:, 0].tolist(), strict=True))

    def ask(self) -> list[int]:
        rows = np.array(sorted(row for row, heard in self._told.items() if heard.holds), dtype=np.int64)
        if not rows.size:
            return []
        points = relative(np.array([self._told[row].objectives for row in rows.tolist()]))
        recommended, *others = self._best(rows, points)
        front = rows[nondominated(points)].tolist()
        wanted = [self._space.settings(recommended)]
        wanted.append([row for kept in front for row in self._space.settings(kept, all_but="max_num_batched_tokens")])
        wanted += [self._space.settings(row) for row in others]
        missing = ([row for row in dict.fromkeys(group) if row not in self._told] for group in wanted)
        return next((group for group in missing if group), [])

    def tell(self, scored: Mapping[int, Scored]) -> None:
        self._told |= scored

    def _best(self, rows: Ints, points: Floats) -> list[int]:
        """What would be recommended; the cheapest, the fastest, and the least of each objective."""
        cost = np.array([self._cost[row] for row in rows.tolist()])
        speed = points[:, 1:].sum(axis=1)
        afford = np.where(cost <= ABOUT_AS_CHEAP * cost.min(), speed, np.inf)
        orders: list[tuple[Floats, ...]] = [(speed, afford), (speed, cost), (cost, speed)]
        orders += [(speed, cost, points[:, objective]) for objective in range(1, points.shape[1])]
        return [int(rows[np.lexsort(order)[0]]) for order in orders]
