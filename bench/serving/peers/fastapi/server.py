# The environment that this runs in has fastapi; the one that checks types has not.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
"""FastAPI with uvicorn, as its documentation has it: pydantic types in and out.

`async def`: a plain `def` would hand every request to a thread pool and wait for it, which is slower on one core. The
declared return type lets pydantic write the JSON in Rust. There is no batching to turn on.
"""

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Row(BaseModel):
    """What a client sends."""

    input: list[float]


class Prediction(BaseModel):
    """What it gets."""

    prediction: list[float]


@app.get("/ready")
async def ready() -> None:
    """The model is loaded before the application starts."""


@app.post("/predict")
async def predict(row: Row) -> Prediction:
    """One row."""
    rows = np.array([row.input], dtype=np.float32)
    return Prediction(prediction=session.run(None, {"input": rows})[0][0].tolist())
