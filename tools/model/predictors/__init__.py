"""Predictors of models that keep their own library: each is copied into the model folder as its predictor.py."""
