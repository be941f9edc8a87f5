import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


@pytest.fixture
def write_dicom():
    def write_dicom(path, stored, **tags):
        """A secondary-capture file of grey values (H, W), RGB (H, W, 3) or frames of grey ones (frames, H, W)."""
        is_colour = stored.ndim == 3 and stored.shape[-1] == 3
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID
        dataset.Rows, dataset.Columns = stored.shape[:2] if is_colour else stored.shape[-2:]
        dataset.SamplesPerPixel = 3 if is_colour else 1
        dataset.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = stored.dtype.itemsize * 8
        dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(stored.dtype.kind == "i")
        if is_colour:
            dataset.PlanarConfiguration = 0
        elif stored.ndim == 3:
            dataset.NumberOfFrames = len(stored)
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.PixelData = stored.tobytes()
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write_dicom
