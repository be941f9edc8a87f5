"""FPT and FPT+ as modules: the frozen backbone, token selection, fusion, the side network, and its lean layers."""
