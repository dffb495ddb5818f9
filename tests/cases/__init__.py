"""The table of operator rules: one case per rule and attribute variant.

CASES: all of them. REFUSED: (case, words of the error). OPEN: cases on which compiler and oracle disagree and it is not
settled who is right, with the reason; they are run and expected to fail.
"""

from .convolutional import CASES as CONVOLUTIONAL
from .elementwise import CASES as ELEMENTWISE
from .moves import CASES as MOVES
from .products import CASES as PRODUCTS
from .reductions import CASES as REDUCTIONS

CASES = [*CONVOLUTIONAL, *PRODUCTS, *ELEMENTWISE, *REDUCTIONS, *MOVES]
REFUSED = []
OPEN: dict[str, str] = {}
