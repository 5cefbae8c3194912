"""ONNX files as models: read within bounds, evaluated where no input counts, converted node by node, proved.

reading.py    the file and what lies beside it, without following a path anywhere else
known.py      sizes and constants of every value, at two sizes of the batch
fusing.py     what exporters take apart is put together: linear layers, layer normalisation
lowering/     what each operator becomes; what is rare is onnx2torch's
assembling.py a module with the names of the file
proving.py    the module beside ONNX Runtime, on the very file
"""
