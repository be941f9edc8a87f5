import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


@pytest.fixture
def write_dicom():
    def write_dicom(path, stored, **tags):
        """A secondary-capture file of 16-bit grey values (H, W) or 8-bit RGB (H, W, 3)."""
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.Rows, dataset.Columns = stored.shape[-2:] if stored.ndim == 2 else stored.shape[:2]
        dataset.SamplesPerPixel = 1 if stored.ndim == 2 else 3
        dataset.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
        dataset.BitsAllocated = dataset.BitsStored = stored.dtype.itemsize * 8
        dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(stored.dtype.kind == "i")
        if stored.ndim == 3:
            dataset.PlanarConfiguration = 0
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.PixelData = stored.tobytes()
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write_dicom
