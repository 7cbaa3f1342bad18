"""Load preference data: read, check, convert and tokenise files, and count what happened to every row."""

from tiltlm.data.accounting import Accounting
from tiltlm.data.data_settings import DataSettings, SourceSettings
from tiltlm.data.dataset import PreferenceData, load_data
from tiltlm.data.early import Columns, check_sources, read_columns
from tiltlm.data.order import epoch_order
from tiltlm.data.partners import assign_partners
from tiltlm.data.token_preview import Piece, Preview
from tiltlm.data.tokens.encoder import Encoder

__all__ = [
    "Accounting",
    "Columns",
    "DataSettings",
    "Encoder",
    "Piece",
    "PreferenceData",
    "Preview",
    "SourceSettings",
    "assign_partners",
    "check_sources",
    "epoch_order",
    "load_data",
    "read_columns",
]
