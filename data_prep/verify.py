"""`basicsr verify` as a script.

python data_prep/verify.py datasets
"""

import sys

from basicsr_command import main

if __name__ == '__main__':
    sys.exit(main(['verify', *sys.argv[1:]]))
