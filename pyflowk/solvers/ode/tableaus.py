"""Explicit Runge-Kutta methods as tables of coefficients, all in the form that ends with a slope at the new state.

A method of s stages has times c, rows a, weights b, weights of the error estimate, and a polynomial for the inside of a
step. The slope at the new state, f(t + h, y1), is appended where the method does not have it as its last stage: the
next step begins with it, and the polynomial needs it. `stages` counts it; `Tableau.fsal` says whether the method itself
has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction as F

__all__ = ["METHODS", "TABLEAUS", "Tableau", "estimates_error", "tableau"]

Row = tuple[float, ...]
Sparse = tuple[tuple[int, ...], Row]
"""The places of the weights that are not zero, and those weights."""


@dataclass(frozen=True)
class Tableau:
    """k_i = f(t + c_i h, y + h sum_j a_ij k_j), y1 = y + h sum_i b_i k_i, error = h sum_i e_i k_i.

    Inside the step y(t + theta h) = y + h sum_i k_i sum_p interpolant[i][p] theta^(p + 1).
    """

    name: str
    order: int
    c: Row  # of every stage, the appended one included
    a: tuple[Row, ...]  # a[i] has i entries; the last row is b
    b: Row
    error: Row | None  # None: no embedded method, fixed steps only
    error_order: int  # the estimate is O(h^error_order); steps grow with its root
    interpolant: tuple[Row, ...]
    fsal: bool
    rows: tuple[Sparse, ...] = field(init=False, repr=False, compare=False)  # of a
    estimate: Sparse = field(init=False, repr=False, compare=False)  # of the error

    @property
    def stages(self) -> int:
        """How many slopes a step has, that at its end included."""
        return len(self.c)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(map(_sparse, self.a)))
        object.__setattr__(self, "estimate", _sparse(self.error or ()))

    @property
    def evaluations(self) -> int:
        """How many evaluations of the field a further step costs."""
        return self.stages - 1


def _sparse(row: Row) -> Sparse:
    kept = [(j, w) for j, w in enumerate(row) if w] or [(0, 0.0)]
    return tuple(j for j, _ in kept), tuple(w for _, w in kept)


def _hermite(b: Row) -> tuple[Row, ...]:
    """The cubic through both states and both slopes, of the slopes alone."""
    first, last = 0, len(b) - 1
    return tuple(
        ((i == first) * 1.0, 3 * w - 2 * (i == first) - (i == last), -2 * w + (i == first) + (i == last))
        for i, w in enumerate(b)
    )


def _through_middle(b: Row, middle: Row) -> tuple[Row, ...]:
    """The quartic through both states, both slopes and the state y + h sum_i middle_i k_i at half the step."""
    rows = []
    for i, (w, m) in enumerate(zip(b, middle)):
        first, last = float(i == 0), float(i == len(b) - 1)
        rows.append(
            (
                first,
                -5 * w + 16 * m + last - 4 * first,
                14 * w - 32 * m + 5 * first - 3 * last,
                -8 * w + 16 * m + 2 * (last - first),
            )
        )
    return tuple(rows)


def _method(
    name: str, order: int, a: str, b: str, error: str = "", error_order: int = 0, fsal: bool = False
) -> Tableau:
    """From text: rows of a separated by |; where fsal, the last row of a is b without its final zero."""
    rows = [tuple(float(F(w)) for w in row.split(",")) for row in a.split("|")] if a else []
    exact = [sum(F(w) for w in row.split(",")) for row in a.split("|")] if a else []
    weights = tuple(float(F(w)) for w in b.split(","))
    estimate = tuple(float(F(w)) for w in error.split(",")) if error else None
    c = [0.0, *map(float, exact)]
    if not fsal:
        rows, c, weights = [*rows, weights], [*c, 1.0], (*weights, 0.0)
        estimate = (*estimate, 0.0) if estimate else None
    return Tableau(name, order, tuple(c), ((), *rows), weights, estimate, error_order, _hermite(weights), fsal)


def _difference(b: str, other: str) -> str:
    return ",".join(str(F(x) - F(y)) for x, y in zip(b.split(","), other.split(",")))


_DOPRI5_B = "35/384,0,500/1113,125/192,-2187/6784,11/84,0"
_DOPRI5 = _method(
    "dopri5",
    5,
    "1/5|3/40,9/40|44/45,-56/15,32/9|19372/6561,-25360/2187,64448/6561,-212/729"
    "|9017/3168,-355/33,46732/5247,49/176,-5103/18656|35/384,0,500/1113,125/192,-2187/6784,11/84",
    _DOPRI5_B,
    _difference(_DOPRI5_B, "1951/21600,0,22642/50085,451/720,-12231/42400,649/6300,1/60"),
    5,
    fsal=True,
)
_DOPRI5_MIDDLE = tuple(
    float(F(*m) / 2)
    for m in (
        (6025192743, 30085553152),
        (0, 1),
        (51252292925, 65400821598),
        (-2691868925, 45128329728),
        (187940372067, 1594534317056),
        (-1776094331, 19743644256),
        (11237099, 235043384),
    )
)

_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0.0,
)


def _product(scale: float, *factors: tuple[float, ...]) -> Row:
    """The coefficients of theta, theta^2, ... of scale times polynomials, each given from its highest power down."""
    total = [scale]
    for factor in factors:
        result = [0.0] * (len(total) + len(factor) - 1)
        for i, x in enumerate(total):
            for j, y in enumerate(factor):
                result[i + j] += x * y
        total = result
    ascending = total[::-1]  # constant first
    return tuple((ascending + [0.0] * 5)[1:5])


_T2 = (1.0, 0.0, 0.0)
_TSIT5 = Tableau(
    "tsit5",
    5,
    (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    (
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.02826905039406838),
        _TSIT5_B[:6],
    ),
    _TSIT5_B,
    (
        0.001780011052225777, 0.0008164344596567469, -0.007880878010261995, 0.1447110071732629, -0.5823571654525552,
        0.4580821059291870, -1 / 66,
    ),
    5,
    (
        _product(
            -1.0530884977290216, (1, 0), (1, -1.3299890189751412), (1, -1.4364028541716351, 0.7139816917074209)
        ),
        _product(0.1017, _T2, (1, -2.1966568338249754, 1.2949852507374631)),
        _product(2.490627285651252793, _T2, (1, -2.38535645472061657, 1.57803468208092486)),
        _product(-16.54810288924490272, (1, -1.21712927295533244), (1, -0.61620406037800089), _T2),
        _product(47.37952196281928122, (1, -1.203071208372362603), (1, -0.658047292653547382), _T2),
        _product(-34.87065786149660974, (1, -1.2), (1, -2 / 3), _T2),
        _product(2.5, (1, -1), (1, -0.6), _T2),
    ),
    fsal=True,
)  # fmt: skip

_DOPRI8_B = (
    "14005451/335480064,0,0,0,0,-59238493/1068277825,181606767/758867731,561292985/797845732,"
    "-1041891430/1371343529,760417239/1151165299,118820643/751138087,-528747749/2220607170,1/4"
)
#: of the paper: the rounded rows of a add up to them, nearly
_DOPRI8_C = "0,1/18,1/12,1/8,5/16,3/8,59/400,93/200,5490023248/9719169821,13/20,1201146811/1299019798,1,1,1"
_DOPRI8 = _method(
    "dopri8",
    8,
    "1/18|1/48,1/16|1/32,0,3/32|5/16,0,-75/64,75/64|3/80,0,0,3/16,3/20"
    "|29443841/614563906,0,0,77736538/692538347,-28693883/1125000000,23124283/1800000000"
    "|16016141/946692911,0,0,61564180/158732637,22789713/633445777,545815736/2771057229,-180193667/1043307555"
    "|39632708/573591083,0,0,-433636366/683701615,-421739975/2616292301,100302831/723423059,790204164/839813087,"
    "800635310/3783071287"
    "|246121993/1340847787,0,0,-37695042795/15268766246,-309121744/1061227803,-12992083/490766935,"
    "6005943493/2108947869,393006217/1396673457,123872331/1001029789"
    "|-1028468189/846180014,0,0,8478235783/508512852,1311729495/1432422823,-10304129995/1701304382,"
    "-48777925059/3047939560,15336726248/1032824649,-45442868181/3398467696,3065993473/597172653"
    "|185892177/718116043,0,0,-3185094517/667107341,-477755414/1098053517,-703635378/230739211,"
    "5731566787/1027545527,5232866602/850066563,-4093664535/808688257,3962137247/1805957418,65686358/487910083"
    "|403863854/491063109,0,0,-5068492393/434740067,-411421997/543043805,652783627/914296604,11173962825/925320556,"
    "-13158990841/6184727034,3936647629/1978049680,-160528059/685178525,248638103/1413531060,0",
    _DOPRI8_B,
    _difference(
        _DOPRI8_B,
        "13451932/455176623,0,0,0,0,-808719846/976000145,1757004468/5645159321,656045339/265891186,"
        "-3867574721/1518517206,465885868/322736535,53011238/667516719,2/45,0",
    ),
    8,
)
_ZERO6: Row = (0.0,) * 6
_DOPRI8_INSIDE: tuple[Row, ...] = (
    (1, -6.6910181737837596, 19.9990069333683971, -30.0610568289666451, 22.1396504998094069, -6.3448349392860401),
    _ZERO6,
    _ZERO6,
    _ZERO6,
    _ZERO6,
    (0, -7.6142658045872677, 52.2273532792945524, -121.4999627731334643, 116.4422149550342162, -39.6107919852202505),
    (0, 10.7281392630428866, -46.8919164181093622, 83.1721004639847717, -67.1451318825957197, 20.3761213808791437),
    (0, 0.5526637063753649, -0.1890893225010595, 9.5724507555993664, -16.5672243527496525, 7.3347098826795362),
    (0, 4.2186562625665154, -35.7075975946222073, 87.8406057677205646, -89.9916014847245016, 32.8801774352459155),
    (0, -0.6627209125361598, 6.2736448083240352, -17.4152107770762969, 22.6237489648532849, -10.1588990526426761),
    (0, -1.2636789001135462, 10.3160881272450748, -28.5903289514790977, 32.2362340167355370, -12.5401268098782561),
    (0, 5.4106037898590422, -34.7650769866611817, 81.6630950584341413, -82.1020315488359849, 29.5553001484516038),
    (0, -7.0321379067945742, 47.7457971078225540, -114.9375291377009418, 116.2662185791119533, -41.7923486424390589),
    (0, 2.3537586759714983, -19.0082099341608028, 50.2558364226176018, -53.9020777466385397, 20.3006925822100825),
)

#: name -> method.
TABLEAUS: dict[str, Tableau] = {
    table.name: table
    for table in (
        _method("euler", 1, "", "1"),
        _method("midpoint", 2, "1/2", "0,1"),
        _method("heun2", 2, "1", "1/2,1/2", "-1/2,1/2", 2),
        _method("ralston", 2, "2/3", "1/4,3/4"),
        _method("heun3", 3, "1/3|0,2/3", "1/4,0,3/4"),
        _method("rk4", 4, "1/3|-1/3,1|1,-1,1", "1/8,3/8,3/8,1/8"),
        _method("rk4_classic", 4, "1/2|0,1/2|0,0,1", "1/6,1/3,1/3,1/6"),
        _method(
            "bosh3",
            3,
            "1/2|0,3/4|2/9,1/3,4/9",
            "2/9,1/3,4/9,0",
            _difference("2/9,1/3,4/9,0", "7/24,1/4,1/3,1/8"),
            3,
            fsal=True,
        ),
        _method("fehlberg2", 2, "1/2|1/256,255/256", "1/512,255/256,1/512", "-1/512,0,1/512", 2),
        replace(_DOPRI5, interpolant=_through_middle(_DOPRI5.b, _DOPRI5_MIDDLE)),
        _TSIT5,
        replace(_DOPRI8, c=tuple(float(F(c)) for c in _DOPRI8_C.split(",")), interpolant=_DOPRI8_INSIDE),
    )
}
#: every method that `odeint` knows by name.
METHODS = (*TABLEAUS, "adams2", "adams3", "adams4", "adams5")


def estimates_error(method: str) -> bool:
    """Whether a method can choose its steps; ValueError for one that is not known."""
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    return method in TABLEAUS and TABLEAUS[method].error is not None


def tableau(name: str) -> Tableau:
    """The method of this name.

    >>> tableau("dopri5").stages, tableau("rk4").evaluations
    (7, 4)
    """
    if name not in TABLEAUS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}; got {name!r}")
    return TABLEAUS[name]
