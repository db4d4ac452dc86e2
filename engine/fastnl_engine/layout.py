"""Where the boxes of a graph go, in plain Python and the same each time.

Components are laid out one by one and packed side by side.  Of a component, boxes with one neighbour go around it, in
a ring or, where they are many, in rows.  The others are placed by their distances in the graph (pivot MDS: Brandes and
Pich, 2006), evened out by springs, and pushed apart until none covers another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

Point = tuple[float, float]
Size = tuple[float, float]

ASPECT = 1.6  # width to height of the whole and of every crowd
GAP = 18.0  # between boxes
REACH = 70.0  # of an edge, beside the boxes at its ends
RING = 28  # more leaves than this stand in rows
PIVOTS = 24
GOLDEN = math.pi * (3 - math.sqrt(5))


def place(boxes: Sequence[Size], edges: Iterable[tuple[int, int]]) -> list[Point]:
    """The centre of each box; the picture begins at (0, 0)."""
    near: list[set[int]] = [set() for _ in boxes]
    for a, b in edges:
        if a != b:
            near[a].add(b)
            near[b].add(a)
    parts = []
    for members in _components(near):
        points = _arrange(members, near, boxes)
        parts.append((members, points, _bounds([boxes[m] for m in members], points)))
    out: list[Point] = [(0.0, 0.0)] * len(boxes)
    for (members, points, (left, top, _, _)), (x, y) in zip(parts, _pack([b for _, _, b in parts]), strict=True):
        for m, (px, py) in zip(members, points, strict=True):
            out[m] = (px - left + x, py - top + y)
    return out


def _components(near: Sequence[set[int]]) -> Iterator[list[int]]:
    seen: set[int] = set()
    for start in range(len(near)):
        if start in seen:
            continue
        found = [start]
        seen.add(start)
        for n in found:
            fresh = near[n] - seen
            seen |= fresh
            found += sorted(fresh)
        yield sorted(found)


# -- one component -----------------------------------------------------------------------------------


def _arrange(members: list[int], near: Sequence[set[int]], boxes: Sequence[Size]) -> list[Point]:
    if len(members) > 6 and max(len(near[m]) for m in members) == 2 and min(len(near[m]) for m in members) == 1:
        return _snake(members, near, boxes)
    leaves: dict[int, list[int]] = {}
    for m in members:
        if len(members) > 2 and len(near[m]) == 1:
            leaves.setdefault(next(iter(near[m])), []).append(m)
    core = [m for m in members if m not in {leaf for group in leaves.values() for leaf in group}]
    # a hub counts as large as it is with its leaves
    sizes = []
    for m in core:
        group = leaves.get(m, [])
        around = _around(boxes[m], [boxes[leaf] for leaf in group], []) if group else []
        left, top, right, bottom = _bounds([boxes[m], *(boxes[leaf] for leaf in group)], [(0.0, 0.0), *around])
        sizes.append((2 * max(-left, right), 2 * max(-top, bottom)))
    index = {m: i for i, m in enumerate(core)}
    links = [[index[n] for n in sorted(near[m]) if n in index] for m in core]
    points = _core(sizes, links)
    where = dict(zip(core, points, strict=True))
    for hub, group in leaves.items():
        x, y = where[hub]
        others = [points[i] for i in links[index[hub]]]
        taken = [math.atan2(oy - y, (ox - x) / ASPECT) for ox, oy in others]
        around = _around(boxes[hub], [boxes[leaf] for leaf in group], taken)
        where.update((leaf, (x + dx, y + dy)) for leaf, (dx, dy) in zip(group, around, strict=True))
    return _apart([where[m] for m in members], [boxes[m] for m in members], GAP / 3)


def _snake(members: list[int], near: Sequence[set[int]], boxes: Sequence[Size]) -> list[Point]:
    """A chain, in rows to and fro."""
    path = [next(m for m in members if len(near[m]) == 1)]
    while len(path) < len(members):
        path.append(next(m for m in sorted(near[path[-1]]) if m not in path[-2:]))
    width = max(boxes[m][0] for m in members) + REACH
    height = max(boxes[m][1] for m in members) + REACH / 2
    columns = max(3, round(math.sqrt(len(path) * ASPECT * height / width)))
    where = {}
    for i, m in enumerate(path):
        row, column = divmod(i, columns)
        where[m] = ((columns - 1 - column if row % 2 else column) * width, row * height)
    return [where[m] for m in members]


def _around(hub: Size, leaves: Sequence[Size], taken: Sequence[float]) -> list[Point]:
    """Places for leaves around a hub at (0, 0); `taken` are the directions of its other edges."""
    width = max(w for w, _ in leaves) + GAP / 2
    height = max(h for _, h in leaves) + GAP / 2
    if len(leaves) > RING:
        return _rows(hub, len(leaves), width, height)
    angles = _angles(len(leaves), taken)
    radius = (hub[1] + height) / 2 + REACH / 2
    while True:
        ring = [(ASPECT * radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]
        if all(
            abs(ax - bx) >= width or abs(ay - by) >= height
            for (ax, ay), (bx, by) in zip(ring, ring[1:] + ring[:1], strict=True)
            if (ax, ay) != (bx, by)
        ):
            return ring
        radius *= 1.08


def _angles(count: int, taken: Sequence[float]) -> list[float]:
    """Directions for `count` leaves, clockwise from the top, far from each other and from those that are taken."""
    if not taken:
        # an even number stands left and right of the vertical
        first = -math.pi / 2 + (math.pi / count if count % 2 == 0 else 0.0)
        return [first + 2 * math.pi * i / count for i in range(count)]
    used = sorted(angle % math.tau for angle in taken)
    chosen: list[float] = []
    for _ in range(count):
        gaps = [((b - a) % math.tau or math.tau, a) for a, b in zip(used, [*used[1:], used[0]], strict=True)]
        width, begin = max(gaps, key=lambda gap: (round(gap[0], 6), -gap[1]))
        chosen.append((begin + width / 2) % math.tau)
        used = sorted([*used, chosen[-1]])
    return sorted(chosen, key=lambda angle: (angle + math.pi / 2) % math.tau)


def _rows(hub: Size, count: int, width: float, height: float) -> list[Point]:
    """The `count` places nearest to the hub of a wall of bricks, row by row."""
    height *= 1.25
    reach = math.sqrt(count * width * height / ASPECT / math.pi) + hub[0] + width
    free = []
    for row in range(-int(reach / height) - 1, int(reach / height) + 2):
        shift = 0.5 if row % 2 else 0.0
        for column in range(-int(ASPECT * reach / width) - 2, int(ASPECT * reach / width) + 2):
            x, y = (column + shift) * width, row * height
            if abs(x) > (hub[0] + width) / 2 or abs(y) > hub[1] / 2 + height:
                free.append((math.hypot(x / ASPECT, y), y, x))
    return [(x, y) for y, x in sorted((y, x) for _, y, x in sorted(free)[:count])]


def _core(sizes: Sequence[Size], links: Sequence[Sequence[int]]) -> list[Point]:
    """Places for the boxes of a connected graph around (0, 0)."""
    if len(sizes) == 1:
        return [(0.0, 0.0)]
    if len(sizes) == 2:
        distance = (sizes[0][0] + sizes[1][0]) / 2 + REACH
        return [(-distance / 2, 0.0), (distance / 2, 0.0)]
    # springs know circles only: everything is flattened for them, as boxes are wider than high
    radii = [max(w / ASPECT, h) / 2 for w, h in sizes]
    points = _fit(_springs(_pivots(links, radii), links, radii), links, radii)
    return _apart([(x * ASPECT, y) for x, y in points], sizes, GAP)


def _fit(points: Sequence[Point], links: Sequence[Sequence[int]], radii: Sequence[float]) -> list[Point]:
    """With edges of the length that they should have; where many cross, they get more room."""
    count = len(points)
    crowd = max(1.0, math.sqrt(sum(map(len, links)) / count / 3))
    wanted = sum(radii[a] + radii[b] + REACH * crowd for a in range(count) for b in links[a])
    have = sum(math.dist(points[a], points[b]) for a in range(count) for b in links[a])
    scale = wanted / have if have else 1.0
    if crowd > 1:
        # short edges would heap everything up, and it takes long to push a heap apart
        left, top, right, bottom = _bounds([(0.0, 0.0)] * count, points)
        boxes = sum((2 * r + GAP) ** 2 for r in radii)
        scale = max(scale, math.sqrt(0.8 * boxes / max(1.0, (right - left) * (bottom - top))))
    return [(x * scale, y * scale) for x, y in points]


def _pivots(links: Sequence[Sequence[int]], radii: Sequence[float]) -> list[Point]:
    """Points whose distances are about those in the graph."""
    count = len(links)
    columns: list[list[float]] = []
    nearest = [math.inf] * count
    pivot = max(range(count), key=lambda i: (len(links[i]), -i))
    for _ in range(min(PIVOTS, count)):
        distances = _distances(links, pivot)
        columns.append([d * d for d in distances])
        nearest = [min(a, b) for a, b in zip(nearest, distances, strict=True)]
        pivot = max(range(count), key=lambda i: (nearest[i], -i))
    # double centring: what is left are the coordinates' products
    rows = [sum(column[i] for column in columns) / len(columns) for i in range(count)]
    for column in columns:
        mean = sum(column) / count
        column[:] = [rows[i] + mean - v for i, v in enumerate(column)]
    total = sum(rows) / count
    for column in columns:
        column[:] = [(v - total) / 2 for v in column]
    products = [[sum(p * q for p, q in zip(a, b, strict=True)) for b in columns] for a in columns]
    axes: list[list[float]] = []
    for _ in range(2):
        axes.append(_greatest(products, axes))
    points = [
        (
            sum(c[i] * v for c, v in zip(columns, axes[0], strict=True)),
            sum(c[i] * v for c, v in zip(columns, axes[1], strict=True)),
        )
        for i in range(count)
    ]
    wanted = sum(radii[a] + radii[b] + REACH for a in range(count) for b in links[a])
    have = sum(math.dist(points[a], points[b]) for a in range(count) for b in links[a])
    scale = wanted / have if have > 1e-9 else 0.0
    # twins, with the same neighbours, would lie on one another
    spread = REACH / 4
    return [
        (x * scale + spread * math.cos(GOLDEN * i), y * scale + spread * math.sin(GOLDEN * i))
        for i, (x, y) in enumerate(points)
    ]


def _distances(links: Sequence[Sequence[int]], start: int) -> list[float]:
    distances = [math.inf] * len(links)
    distances[start] = 0.0
    queue = [start]
    for n in queue:
        for m in links[n]:
            if distances[m] == math.inf:
                distances[m] = distances[n] + 1
                queue.append(m)
    return distances


def _greatest(matrix: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> list[float]:
    """The eigenvector of the greatest eigenvalue, at right angles to `others`."""
    vector = [1.0 + math.sin(i + 1.0) for i in range(len(matrix))]
    for _ in range(60):
        for other in others:
            along = sum(a * b for a, b in zip(vector, other, strict=True))
            vector = [a - along * b for a, b in zip(vector, other, strict=True)]
        vector = [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]
        length = math.hypot(*vector)
        if length < 1e-9:
            return [0.0] * len(matrix)
        vector = [a / length for a in vector]
    return vector


def _springs(points: list[Point], links: Sequence[Sequence[int]], radii: Sequence[float]) -> list[Point]:
    """Fruchterman and Reingold: edges pull, boxes that are near push."""
    count = len(points)
    pairs = [(a, b) for a in range(count) for b in links[a] if a < b]
    ideal = REACH + 2 * sum(radii) / count
    rounds = max(12, min(200, 60_000 // count))
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    for n in range(rounds):
        fx, fy = [0.0] * count, [0.0] * count
        for a, b in _near(xs, ys, 2 * ideal, everything=count <= 150):
            dx, dy = xs[a] - xs[b], ys[a] - ys[b]
            room = REACH + radii[a] + radii[b]
            push = room * room / (dx * dx + dy * dy + 1.0)
            fx[a] += dx * push
            fy[a] += dy * push
            fx[b] -= dx * push
            fy[b] -= dy * push
        for a, b in pairs:
            dx, dy = xs[a] - xs[b], ys[a] - ys[b]
            pull = math.hypot(dx, dy) / (REACH + radii[a] + radii[b])
            # in a crowd of edges each pulls less, or everything falls into one heap
            pull /= math.sqrt(min(len(links[a]), len(links[b])))
            fx[a] -= dx * pull
            fy[a] -= dy * pull
            fx[b] += dx * pull
            fy[b] += dy * pull
        heat = ideal * (1 - n / rounds) * 0.4
        for i in range(count):
            force = math.hypot(fx[i], fy[i])
            if force > 0:
                step = min(heat, force) / force
                xs[i] += fx[i] * step
                ys[i] += fy[i] * step
    return list(zip(xs, ys, strict=True))


def _near(xs: Sequence[float], ys: Sequence[float], reach: float, everything: bool) -> Iterator[tuple[int, int]]:
    """Pairs of places that are about `reach` or less apart."""
    if everything:
        for a in range(len(xs)):
            for b in range(a):
                yield a, b
        return
    cells: dict[tuple[int, int], list[int]] = {}
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        cells.setdefault((int(x // reach), int(y // reach)), []).append(i)
    for (cx, cy), members in cells.items():
        for n, a in enumerate(members):
            for b in members[:n]:
                yield a, b
        for other in ((cx + 1, cy), (cx - 1, cy + 1), (cx, cy + 1), (cx + 1, cy + 1)):
            for b in cells.get(other, ()):
                for a in members:
                    yield a, b


def _apart(points: list[Point], sizes: Sequence[Size], gap: float) -> list[Point]:
    """Moves boxes until none covers another, each by as little as possible."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    reach = max(max(w, h) for w, h in sizes) + gap
    patience = 10 if len(xs) < 500 else 4
    for turn in range(400):
        moved = False
        for a, b in _near(xs, ys, reach, everything=len(xs) <= 60):
            dx, dy = xs[a] - xs[b], ys[a] - ys[b]
            ox = (sizes[a][0] + sizes[b][0]) / 2 + gap - abs(dx)
            oy = (sizes[a][1] + sizes[b][1]) / 2 + gap - abs(dy)
            if ox <= 0 or oy <= 0:
                continue
            moved = True
            if ox < oy * ASPECT:
                step = math.copysign(ox / 2 + 0.01, dx)
                xs[a] += step
                xs[b] -= step
            else:
                step = math.copysign(oy / 2 + 0.01, dy)
                ys[a] += step
                ys[b] -= step
        if not moved:
            break
        if turn % patience == patience - 1:  # too tight to be solved in place
            xs, ys = [x * 1.04 for x in xs], [y * 1.04 for y in ys]
    return list(zip(xs, ys, strict=True))


# -- all components ----------------------------------------------------------------------------------


def _bounds(boxes: Sequence[Size], points: Sequence[Point]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of everything."""
    return (
        min(x - w / 2 for (w, _), (x, _) in zip(boxes, points, strict=True)),
        min(y - h / 2 for (_, h), (_, y) in zip(boxes, points, strict=True)),
        max(x + w / 2 for (w, _), (x, _) in zip(boxes, points, strict=True)),
        max(y + h / 2 for (_, h), (_, y) in zip(boxes, points, strict=True)),
    )


def _pack(bounds: Sequence[tuple[float, float, float, float]]) -> list[Point]:
    """Top left corners for components, the high ones first, in rows of about the same width."""
    between = 2.5 * GAP
    sizes = [(right - left + between, bottom - top + between) for left, top, right, bottom in bounds]
    line = max([math.sqrt(ASPECT * sum(w * h for w, h in sizes)), *(w for w, _ in sizes)], default=0.0)
    out: list[Point] = [(0.0, 0.0)] * len(sizes)
    x = y = height = 0.0
    for i in sorted(range(len(sizes)), key=lambda i: (-round(sizes[i][1]), i)):
        width = sizes[i][0]
        if x and x + width > line * 1.02:
            x, y, height = 0.0, y + height, 0.0
        out[i] = (x, y)
        x += width
        height = max(height, sizes[i][1])
    return out
