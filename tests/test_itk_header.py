"""Headers of NRRD and MHA: those that would end the process are refused, and odd ones are read."""

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_cts import ct, same

from common.errors import InputError
from common.volume import nifti
from common.volume.itk import to_sitk

# how a good header is damaged, and what is said; ITK alone writes beyond its memory for some
DAMAGES = [
    ("x.mha", b"TransformMatrix", b"Tra\nFrmMatrix", "has a line 'Tra'"),
    ("x.mha", b"NDims = 3", b"NDims = 77", "states no NDims"),
    ("x.mha", b"NDims = 3", b"NDims = 4", "has 3 values of DimSize instead of 4"),
    ("x.mha", b"Offset =", b"Offset = 1 2 3 4", "has 7 values of Offset instead of 3"),
    ("x.mha", b"Offset", b"Off\x01\x02", "is not text"),
    ("x.mha", b"ElementDataFile", b"ElementDataFolder", "has no ElementDataFile"),
    ("x.mha", b"DimSize", b"Dimensions", "states no DimSize"),
    ("x.nrrd", b"\n\n", b"\ns", "has no end|is not text|has a line"),
    ("x.nrrd", b"dimension: 3", b"dimension: 999", "states no dimension"),
    ("x.nrrd", b"dimension: 3", b"dimension: 4", "has 3 values of sizes instead of 4"),
    ("x.nrrd", b"space directions: (", b"space directions: (1,1,1) (", "has 4 values of space dir"),
    ("x.nrrd", b"NRRD0004", b"NRRF0004", "does not begin as NRRD"),
    ("x.nrrd", b"encoding: raw", b"encoding raw", "has a line 'encoding raw'"),
]


def written(path):
    sitk.WriteImage(to_sitk(ct()), path)
    return path


@pytest.mark.parametrize(("name", "good", "bad", "said"), DAMAGES)
def test_a_damaged_header_is_refused_before_itk_reads_it(tmp_path, name, good, bad, said):
    path = written(tmp_path / name)
    content = path.read_bytes()
    assert good in content
    path.write_bytes(content.replace(good, bad, 1))
    with pytest.raises(InputError, match=f"{name}: its header (?:{said})"):
        nifti.load_ct(path)


@pytest.mark.parametrize("name", ["x.mha", "x.mhd", "x.nrrd", "x.nhdr"])
def test_a_header_with_windows_line_ends_remarks_and_any_letters_is_read(tmp_path, name):
    path = written(tmp_path / name)
    content = path.read_bytes()
    if "mh" in name:
        content = content.replace(b"ObjectType", "Comment = Größe: a = b\nObjectType".encode(), 1)
    else:
        more = "# Größe\nkind of scan:=knee: a = b\n".encode()
        content = content.replace(b"type: ", more + b"type: ", 1)
        head, _, rest = content.partition(b"\n\n")
        if name == "x.nrrd":
            content = head + b"\r\n\r\n" + rest
    path.write_bytes(content)
    found = nifti.load_ct(path, fill=False)
    same(found, ct())
    assert found.data.dtype == np.int16
