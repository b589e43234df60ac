"""Which folder of the real data a family reads, where it does not make its own."""

FOLDERS = {
    "cifar-fs": "cifar-100-binary",
    "fc100": "cifar-100-binary",
    "omniglot": "omniglot",
    "spoken-digits": "fsdd",
    "spoken-new-digits": "fsdd",
    "clinc150": "clinc150",
}
