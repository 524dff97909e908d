"""OpenGait: train, evaluate and deploy gait-recognition networks."""
