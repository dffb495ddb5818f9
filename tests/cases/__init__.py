"""The table of operator rules: one case per rule and attribute variant.

CASES: all of them. REFUSED: (case, words of the error).
"""

from .contractions import CASES as CONTRACTIONS
from .convolutional import CASES as CONVOLUTIONAL
from .elementwise import CASES as ELEMENTWISE
from .forms import CASES as FORMS
from .forms import REFUSED
from .moves import CASES as MOVES
from .opsets import CASES as OPSETS
from .picks import CASES as PICKS
from .products import CASES as PRODUCTS
from .quantised import CASES as QUANTISED
from .recurrent import CASES as RECURRENT
from .reductions import CASES as REDUCTIONS
from .resampling import CASES as RESAMPLING

CASES = [
    *CONVOLUTIONAL,
    *CONTRACTIONS,
    *PRODUCTS,
    *QUANTISED,
    *ELEMENTWISE,
    *REDUCTIONS,
    *MOVES,
    *PICKS,
    *RECURRENT,
    *RESAMPLING,
    *FORMS,
    *OPSETS,
]

__all__ = ["CASES", "REFUSED"]
