"""Bodies <-> tensors: /predict, the Open Inference Protocol, and what describes both."""
