"""Layers under the field's names."""

from opengait.modeling.modules.align import GaitAlign
from opengait.modeling.modules.convolutions import BasicConv1d, BasicConv2d, BasicConv3d, FocalConv2d
from opengait.modeling.modules.frames import PackSequenceWrapper, SetBlockWrapper, frame_max
from opengait.modeling.modules.gem import GeMHPP
from opengait.modeling.modules.heads import ParallelBN1d, SeparateBNNecks, SeparateClassifiers, SeparateFCs
from opengait.modeling.modules.precision import full_precision
from opengait.modeling.modules.residual import BasicBlock2D, BasicBlock3D, BasicBlockP3D
from opengait.modeling.modules.strips import HorizontalPoolingPyramid
from opengait.modeling.modules.temporal import SequenceConv3d

__all__ = [
    "BasicBlock2D",
    "BasicBlock3D",
    "BasicBlockP3D",
    "BasicConv1d",
    "BasicConv2d",
    "BasicConv3d",
    "FocalConv2d",
    "GaitAlign",
    "GeMHPP",
    "HorizontalPoolingPyramid",
    "PackSequenceWrapper",
    "ParallelBN1d",
    "SeparateBNNecks",
    "SeparateClassifiers",
    "SeparateFCs",
    "SequenceConv3d",
    "SetBlockWrapper",
    "frame_max",
    "full_precision",
]
