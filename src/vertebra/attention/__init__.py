"""Attention mechanisms, one per file, on sequences, maps and windows; `mechanism(query, key, value, mask)` calls any.

Those that have no query, or that read a whole story, have arguments of their own. Scores are in `scores`, position
encodings in `positions`, masks in `masks`.
"""

from vertebra.attention.attention import Attention
from vertebra.attention.coupled import CoupledAttention
from vertebra.attention.dynamic_memory import EpisodicMemory
from vertebra.attention.end_to_end_memory import MemoryNetwork
from vertebra.attention.hard import HardAttention, Reinforce
from vertebra.attention.hierarchical import HierarchicalAttention
from vertebra.attention.local import LocalMonotonicAttention, LocalPredictiveAttention
from vertebra.attention.maps import maps
from vertebra.attention.multi_dimensional import MultiDimensionalAttention
from vertebra.attention.multi_head import MultiHeadAttention, SelfAttention
from vertebra.attention.nested import HybridEmbedding, NestedAttention
from vertebra.attention.sliding import SlidingAttention
from vertebra.attention.soft import SoftAttention, coverage_penalty
from vertebra.attention.softmax import masked_softmax
from vertebra.attention.structured import StructuredAttention, overlap_penalty
from vertebra.attention.window import WindowAttention, Windowed

__all__ = [
    "Attention",
    "CoupledAttention",
    "EpisodicMemory",
    "HardAttention",
    "HierarchicalAttention",
    "HybridEmbedding",
    "LocalMonotonicAttention",
    "LocalPredictiveAttention",
    "MemoryNetwork",
    "MultiDimensionalAttention",
    "MultiHeadAttention",
    "NestedAttention",
    "Reinforce",
    "SelfAttention",
    "SlidingAttention",
    "SoftAttention",
    "StructuredAttention",
    "WindowAttention",
    "Windowed",
    "coverage_penalty",
    "maps",
    "masked_softmax",
    "overlap_penalty",
]
