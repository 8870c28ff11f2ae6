"""What the server tells about itself: metrics, drift, traces and the prediction log."""
