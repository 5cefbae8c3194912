"""What each operator of an ONNX file becomes: a module, and which values it reads."""
