"""A queue of who may begin at a time and would be over at another one: the least end of those that
may begin already.

Theory of operation:
    A search tree in the order of starts; each node knows the least end below it. All starts that
    are not after a time lie to the left of one path from the root, so that one walk finds the least
    end among them. The tree is a treap (Seidel, Aragon 1996): a heap in the order of ranks that
    look random, and with random ranks a search tree is shallow, in whatever order its entries come.
    The ranks are a fixed sequence, so the same calls make the same tree.
Cost: O(log n) for each call, expected.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1


def _rank(number: int) -> int:
    """A number that looks random: the finalizer of splitmix64 (Steele, Lea, Flood 2014)."""
    number = number * 0x9E3779B97F4A7C15 & _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31


class _Node:
    """One vcoproc, and the root of all below it. key: start, and number of the entry."""

    __slots__ = ("best", "end", "high", "key", "low", "rank", "vcoproc_id")

    def __init__(self, vcoproc_id: int, key: tuple[int, int], end: int) -> None:
        self.vcoproc_id = vcoproc_id
        self.key = key
        self.end = (end, key[1], vcoproc_id)
        self.rank = _rank(key[1])
        self.low: _Node | None = None
        self.high: _Node | None = None
        self.best = self.end
        """The least end of this tree."""

    def with_children(self, low: _Node | None, high: _Node | None) -> _Node:
        self.low, self.high = low, high
        best = self.end
        if low is not None and low.best < best:
            best = low.best
        if high is not None and high.best < best:
            best = high.best
        self.best = best
        return self


def _split(tree: _Node | None, key: tuple[int, int]) -> tuple[_Node | None, _Node | None]:
    """Those before a key, and those after it."""
    if tree is None:
        return None, None
    if tree.key < key:
        low, high = _split(tree.high, key)
        return tree.with_children(tree.low, low), high
    low, high = _split(tree.low, key)
    return low, tree.with_children(high, tree.high)


def _joined(low: _Node | None, high: _Node | None) -> _Node | None:
    """One tree of two; all of the first are before all of the second."""
    if low is None or high is None:
        return low if high is None else high
    if low.rank > high.rank:
        return low.with_children(low.low, _joined(low.high, high))
    return high.with_children(_joined(low, high.low), high.high)


def _added(tree: _Node | None, node: _Node) -> _Node:
    if tree is None:
        return node
    if node.rank > tree.rank:
        return node.with_children(*_split(tree, node.key))
    if node.key < tree.key:
        return tree.with_children(_added(tree.low, node), tree.high)
    return tree.with_children(tree.low, _added(tree.high, node))


def _removed(tree: _Node | None, key: tuple[int, int]) -> _Node | None:
    assert tree is not None
    if key == tree.key:
        return _joined(tree.low, tree.high)
    if key < tree.key:
        return tree.with_children(_removed(tree.low, key), tree.high)
    return tree.with_children(tree.low, _removed(tree.high, key))


class EligibleQueue:
    """Vcoprocs with a start and an end each. Equals stand in the order in which they came."""

    __slots__ = ("_keys", "_number", "_root")

    def __init__(self) -> None:
        self._root: _Node | None = None
        self._keys: dict[int, tuple[int, int]] = {}
        self._number = 0

    def __contains__(self, vcoproc_id: int) -> bool:
        return vcoproc_id in self._keys

    def put(self, vcoproc_id: int, start: int, end: int) -> None:
        """Puts it behind all equals; one that was in the queue is moved."""
        self.drop(vcoproc_id)
        self._number += 1
        key = self._keys[vcoproc_id] = (start, self._number)
        self._root = _added(self._root, _Node(vcoproc_id, key, end))

    def drop(self, vcoproc_id: int) -> None:
        """Takes it out, if it is there."""
        key = self._keys.pop(vcoproc_id, None)
        if key is not None:
            self._root = _removed(self._root, key)

    def first_end(self, at: int) -> tuple[int, int] | None:
        """The least end of those that start at a time or before, and whose it is; None: nobody."""
        best: tuple[int, int, int] | None = None
        node = self._root
        while node is not None:
            if node.key[0] > at:
                node = node.low
                continue
            low = node.low
            least = node.end if low is None or node.end < low.best else low.best
            if best is None or least < best:
                best = least
            node = node.high
        return (best[0], best[2]) if best is not None else None

    def first_start(self) -> tuple[int, int] | None:
        """The least start of all, and whose it is; None: nobody is in the queue."""
        node = self._root
        while node is not None and node.low is not None:
            node = node.low
        return (node.key[0], node.vcoproc_id) if node is not None else None
