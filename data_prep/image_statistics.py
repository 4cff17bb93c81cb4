"""`basicsr statistics` as a script.

python data_prep/image_statistics.py datasets/DIV2K/LRx2.lmdb
"""

import sys

from basicsr_command import main

if __name__ == '__main__':
    sys.exit(main(['statistics', *sys.argv[1:]]))
