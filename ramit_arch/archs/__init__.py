"""Networks. Each is one file; `image_network`, `layers` and `row_bands` are what they share.

A network's options are its `__init__`: annotated parameters, defaults, and the `Args:` of its docstring. What else the
framework wants to know it may answer by these attributes, all optional:

    upscale                     factor of super-resolution
    in_chans                    channels of the image, 1 or 3
    size_multiple               sides are padded to multiples of this, in its forward pass
    reconstruction_head         name of the submodule that depends on the factor, for a warm start
    set_grad_checkpointing(on)  activation checkpointing
    set_compiled(on)            use native kernels on a CPU, and return why not, or None; without it `torch.compile`
                                takes the whole network
    merge()                     a copy for inference with the same output, which is exported to ONNX and torch.export
    adapt_state_dict(weights)   convert weights of another form (merged or unmerged) to its own
    tasks_of(weights)           tasks that a network of these weights may be for, if they are its own
    options_from(weights, task) its arguments, for checkpoints that do not carry them
    feature_maps()              maps worth showing: {title: names of submodules}, whose outputs (the first, if they are
                                several) are multiplied
    channel_axis                of these outputs: 1, (N, C, H, W), or -1, (N, H, W, C); 1 by default

and a block of it, any submodule whose first argument is a map, by this one:

    attention_maps(x, row, column)  of the map x that it got, {'spatial': weights of all positions at (row, column),
                                (heads, H, W), NaN for those out of its reach, 'channel': matrices (heads, D, D)},
                                either or both
"""
