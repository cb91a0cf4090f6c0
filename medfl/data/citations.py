"""How the public data that medfl knows is cited."""

LC25000 = "Borkowski et al. 2019, *Lung and Colon Cancer Histopathological Image Dataset (LC25000)*, arXiv:1912.12142"
GROUPS = "source groups of LC25000: doi:10.1007/978-3-031-73748-0_2"
