"""Make the demo's data.

python data_prep/prepare_quickstart.py
"""

from ramit_arch.preparation.quickstart import main

if __name__ == '__main__':
    main()
