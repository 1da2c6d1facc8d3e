"""Sparse dictionaries: autoencoders and transcoders that others published, and small ones trained on a store."""

from backtracking.model.dictionaries.formats import load_dictionary, save_dictionary
from backtracking.model.dictionaries.sparse_dictionary import SparseDictionary
from backtracking.model.dictionaries.topk_training import TopKSettings, TopKTraining, train_topk

__all__ = ["SparseDictionary", "TopKSettings", "TopKTraining", "load_dictionary", "save_dictionary", "train_topk"]
