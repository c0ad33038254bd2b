"""P-256 in plain Python from its definition (SEC 2, section 2.4.2): an independent check, slow and not constant in
time."""

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B


def lift(x: int) -> tuple[int, int] | None:
    """Return a point with this x coordinate, or None when there is none on the curve."""
    square = (x**3 - 3 * x + B) % P
    y = pow(square, (P + 1) // 4, P)
    return (x, y) if x < P and y * y % P == square else None


def add(left: tuple[int, int] | None, right: tuple[int, int] | None) -> tuple[int, int] | None:
    """Add two points; None is the point at infinity."""
    if left is None or right is None:
        return left or right
    (x1, y1), (x2, y2) = left, right
    if x1 == x2 and (y1 + y2) % P == 0:
        return None
    slope = ((3 * x1 * x1 - 3) * pow(2 * y1, -1, P) if left == right else (y2 - y1) * pow(x2 - x1, -1, P)) % P
    x = (slope * slope - x1 - x2) % P
    return x, (slope * (x1 - x) - y1) % P


def power(point: tuple[int, int] | None, k: int) -> tuple[int, int] | None:
    """Multiply by doubling and adding."""
    total = None
    while k:
        if k & 1:
            total = add(total, point)
        point, k = add(point, point), k >> 1
    return total
