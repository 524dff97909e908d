"""From raw frames to the training layout.

`prepare` does a whole distribution (run.py): it lists the raw folder as if every archive were unpacked where it lies
(raw_tree.py, unpack.py, archives.py), has the data set's reader say which folder is which sequence (dataset.py, and one
file a data set), and prepares sequences in several processes (pool.py) into a folder that is whole at any moment
(output.py). A new data set is a subclass of `dataset.RawDataset`, named in `dataset.DATASETS`; it writes

    identify(path) -> Sequence(subject, type, view, source) or None    which sequence a raw folder holds
    prepare(sequence, sources, size) -> Prepared(arrays, found, dropped)    only where it is more than silhouettes

`sources` are readers of the sequence's folders (`names()`, `size(name)`, `read(name)`), on disk or in an archive alike;
`arrays` maps file names to arrays of equal length, `dropped` lists `DroppedFrame(name, reason, detail)`.
"""

from opengait.prepare.report import PrepareReport
from opengait.prepare.run import prepare
from opengait.prepare.silhouette import normalize_parsing, normalize_silhouette

__all__ = ["PrepareReport", "normalize_parsing", "normalize_silhouette", "prepare"]
