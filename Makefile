all: module
module:
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules
