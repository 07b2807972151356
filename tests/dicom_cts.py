"""Small CTs and labelmaps, and DICOM files that hold the same, for the tests of readers."""

import shutil

import numpy as np
import pydicom
from helpers import oblique_affine
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

from common.geometry import RAS_FROM_LPS, apply
from common.volume.lineage import Lineage
from common.volume.volume import Volume

AFFINE = oblique_affine((0.8, 0.9, 1.5))
NAMES = {"femur_left": 3, "tibia_left": 5}


def ct() -> Volume:
    rng = np.random.default_rng(0)
    data = rng.integers(-1000, 60, (12, 10, 8)).astype(np.int16)
    data[4:8, 3:7, 2:6] = rng.integers(200, 1500, (4, 4, 4))
    return Volume(data, AFFINE, Lineage())


def labels() -> Volume:
    data = np.zeros((12, 10, 8), np.uint8)
    data[4:8, 3:7, 2:4], data[4:8, 3:7, 4:6] = 3, 5
    return Volume(data, AFFINE, Lineage())


def same(found: Volume, expected: Volume) -> None:
    """The same value at the same point, whatever the order of axes and the affine."""
    index = np.argwhere(np.ones(expected.shape, bool))
    points = apply(expected.affine, index)
    back = np.rint(apply(np.linalg.inv(found.affine), points)).astype(int)
    np.testing.assert_allclose(apply(found.affine, back), points, atol=1e-3)
    np.testing.assert_array_equal(found.data[tuple(back.T)], expected.data[tuple(index.T)])


def dicom_series(folder, volume, step=None, tilt_mm=0.0, **tags):
    """Slices along the third axis; ``step`` maps a slice's number to its place in slices."""
    folder.mkdir(exist_ok=True)
    lps = RAS_FROM_LPS @ volume.affine
    spacing = volume.spacing_mm
    axes = lps[:3, :3] / spacing
    uid = tags.pop("SeriesInstanceUID", "1.2.3")
    for k in range(volume.shape[2]):
        place = k if step is None else step(k)
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.SeriesInstanceUID, dataset.Modality, dataset.PatientName = uid, "CT", "Secret^Name"
        dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = "1.2", "1.2.9"
        dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "1", "", ""
        dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "", "", ""
        dataset.StudyID, dataset.ReferringPhysicianName = "", ""
        position = lps[:3, 3] + axes[:, 2] * spacing[2] * place + axes[:, 1] * tilt_mm * k
        dataset.ImagePositionPatient = [f"{value:.8g}" for value in position]
        dataset.ImageOrientationPatient = [f"{v:.8f}" for v in (*axes[:, 0], *axes[:, 1])]
        dataset.PixelSpacing = [f"{value:.8f}" for value in spacing[1::-1]]
        dataset.Rows, dataset.Columns = volume.shape[1], volume.shape[0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation, dataset.RescaleSlope = 0, 1
        dataset.RescaleIntercept, dataset.SliceThickness = -1024, f"{spacing[2]:.4f}"
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        dataset.PixelData = (volume.data[:, :, k].T.astype(int) + 1024).astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        # names in an order that is not that of the slices
        dataset.save_as(folder / f"IM{(k * 5) % 997:04d}_{uid}", enforce_file_format=True)
    return folder


def enhanced(path, volume, order=None, **tags):
    """The slices of `dicom_series` as frames of one enhanced CT, in any order."""
    folder = dicom_series(path.parent / f"{path.stem}_slices", volume)
    slices = [pydicom.dcmread(each) for each in sorted(folder.iterdir())]
    shutil.rmtree(folder)
    slices = [slices[n] for n in order or range(len(slices))]
    whole = Dataset()
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID = EnhancedCTImageStorage
    whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID = generate_uid()
    whole.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    for tag in (
        "SeriesInstanceUID", "Modality", "Rows", "Columns", "SamplesPerPixel", "BitsStored",
        "PhotometricInterpretation", "BitsAllocated", "HighBit", "PixelRepresentation",
    ):  # fmt: skip
        setattr(whole, tag, slices[0].get(tag))
    whole.NumberOfFrames = len(slices)

    def item(source, *names):
        made = Dataset()
        for name in names:
            setattr(made, name, source.get(name) or tags.get(name))
        return [made]

    shared = Dataset()
    shared.PlaneOrientationSequence = item(slices[0], "ImageOrientationPatient")
    shared.PixelMeasuresSequence = item(slices[0], "PixelSpacing", "SliceThickness")
    shared.CTReconstructionSequence = item(Dataset(), "ConvolutionKernel")
    whole.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number, each in enumerate(slices):
        group = Dataset()
        group.PlanePositionSequence = item(each, "ImagePositionPatient")
        group.PixelValueTransformationSequence = item(each, "RescaleSlope", "RescaleIntercept")
        content = Dataset()
        content.StackID = tags.get("stack", lambda n: "1")(number)
        group.FrameContentSequence = [content]
        groups.append(group)
    whole.PerFrameFunctionalGroupsSequence = groups
    whole.PixelData = b"".join(each.PixelData for each in slices)
    whole["PixelData"].VR = "OW"
    whole.save_as(path, enforce_file_format=True)
    return path


def rtstruct(path, volume, masks, every=1, uid="1.2.3", **kinds):
    """Contours around masks (I, J, K) on the slices of a volume, in its LPS mm.

    ``every`` slices have contours; ``kinds`` are interpreted types of regions.
    """
    from skimage.measure import find_contours

    whole = Dataset()
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID = RTStructureSetStorage
    whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID = generate_uid()
    whole.Modality, whole.SeriesInstanceUID, whole.PatientName = "RTSTRUCT", "1.2.8", "Secret^Name"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = uid
    study.RTReferencedSeriesSequence, frame.RTReferencedStudySequence = [series], [study]
    whole.ReferencedFrameOfReferenceSequence = [frame]
    whole.StructureSetROISequence, whole.ROIContourSequence = [], []
    whole.RTROIObservationsSequence = []
    for number, (name, mask) in enumerate(masks.items(), start=4):
        region, drawn, observed = Dataset(), Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        observed.ReferencedROINumber = drawn.ReferencedROINumber = number
        observed.RTROIInterpretedType = kinds.get(name, "")
        drawn.ContourSequence = []
        for k in range(0, mask.shape[2], every):
            for line in find_contours(np.pad(mask[:, :, k], 1).astype(float), 0.5):
                index = np.c_[line[:-1] - 1, np.full(len(line) - 1, k)]
                points = apply(RAS_FROM_LPS @ volume.affine, index)
                contour = Dataset()
                contour.ContourGeometricType = "CLOSED_PLANAR"
                contour.NumberOfContourPoints = len(points)
                contour.ContourData = [f"{value:.6f}" for value in points.ravel()]
                drawn.ContourSequence.append(contour)
        whole.StructureSetROISequence.append(region)
        whole.ROIContourSequence.append(drawn)
        whole.RTROIObservationsSequence.append(observed)
    whole.save_as(path, enforce_file_format=True)
    return path
