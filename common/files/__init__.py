"""Files that are complete or absent and belong to one run.

The only package that checks, names, locks and writes files. Standard library only at import.
"""

from common.files.atomic import atomic as atomic
from common.files.atomic import unwritable as unwritable
from common.files.atomic import write_text as write_text
from common.files.atomic import writing as writing
from common.files.checks import DEFLATE_RATIO as DEFLATE_RATIO
from common.files.checks import check_claim as check_claim
from common.files.checks import check_outputs as check_outputs
from common.files.checks import existing_file as existing_file
from common.files.checks import existing_input as existing_input
from common.files.checks import output_folder as output_folder
from common.files.checks import with_lineages as with_lineages
from common.files.lines import add_line as add_line
from common.files.lines import read_lines as read_lines
from common.files.lines import sync_folder as sync_folder
from common.files.names import alike as alike
from common.files.names import is_plain_name as is_plain_name
from common.files.names import natural as natural
from common.files.names import sha256 as sha256
from common.files.names import stem as stem
from common.files.names import versions as versions
from common.files.tables import as_csv as as_csv
from common.files.tables import as_json as as_json
from common.files.tables import read_json as read_json
from common.files.tables import read_text as read_text
from common.files.tables import write_json as write_json
