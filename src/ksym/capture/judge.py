def judges(armed):
    return ()
