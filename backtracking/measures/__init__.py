"""One technique each: tensors or completions in, a labelled frozen result out."""
